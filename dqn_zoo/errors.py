"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake the user can mend; the message says what was expected, what came and what to do.

    The command line prints it as one line and exits with code 2. Every other exception is a bug of
    ours and keeps its traceback.
    """
