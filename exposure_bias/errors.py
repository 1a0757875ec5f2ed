"""The one exception a user can cause."""


class InputError(ValueError):
    """What the user gave cannot be used; the message says what came, what is allowed and what to do.

    The command line prints it in one line and exits with code 2. Anything else that escapes is our bug.
    """
