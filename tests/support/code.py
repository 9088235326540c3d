"""Python code as a command for `children.Child`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Execute the first argument; the others are what it finds in `sys.argv`."""
    code, *others = arguments
    sys.argv = ["-c", *others]
    exec(code, {"__name__": "__main__"})
    return 0
