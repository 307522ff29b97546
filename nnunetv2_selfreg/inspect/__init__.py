"""What SelfReg does to a network: pictures and values of its stages on the user's own images."""
