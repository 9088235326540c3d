"""The one exception that means: the user can mend this."""

import re
import reprlib

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """A mistake the user can mend; the message says what was expected, what came and what to do.

    The command line prints it as one line and exits with `EXIT_USER_ERROR`. Every other exception
    is a bug of ours and keeps its traceback.
    """


def short(value: object) -> str:
    """Return the beginning of a value as Python writes it, however large or deep the whole is."""
    return _SHORT.repr(value)


def plain(message: object) -> str:
    """Return a message on one line, without what a terminal would obey, as files may have it."""
    line = without_password(" ".join(str(message)[:_LONGEST_MESSAGE].split()))
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


def without_password(text: str) -> str:
    """Return a text with `***` for the passwords of the addresses in it."""
    text = re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text)
    return re.sub(r"(?i)\b(password|passwd|pwd|token|secret)=[^&\s'\"]+", r"\1=***", text)


_LONGEST_MESSAGE = 4_000

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
