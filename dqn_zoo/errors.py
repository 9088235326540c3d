"""The one exception that means: the user can mend this."""

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """A mistake the user can mend; the message says what was expected, what came and what to do.

    The command line prints it as one line and exits with `EXIT_USER_ERROR`. Every other exception
    is a bug of ours and keeps its traceback.
    """
