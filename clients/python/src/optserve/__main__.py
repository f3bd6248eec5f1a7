"""``python -m optserve`` is the command ``optserve``."""

import sys

from optserve.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
