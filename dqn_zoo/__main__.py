"""`python -m dqn_zoo`: see `cli.commands`."""

import sys

from dqn_zoo.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
