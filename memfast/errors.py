"""The error that a command shows as one line."""


class InputError(ValueError):
    """Something the user gave cannot be used: the message names it, its value and what is legal.

    The command line prints the message on one line and exits with 2.
    """
