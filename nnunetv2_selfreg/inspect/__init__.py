"""What SelfReg does to a network: pictures and figures of its stages on the user's own images."""
