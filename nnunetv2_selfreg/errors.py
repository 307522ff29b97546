"""The one exception that means "what you gave me cannot work"."""


class SelfRegError(ValueError):
    """A mistake in what the user gave: its text is one line that names the thing, the value and the way out.

    The command line prints it without a traceback; nnU-Net's commands end with it as their last line.
    """


def reason(error: Exception) -> str:
    """What somebody else's exception says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
