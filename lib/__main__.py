"""``python -m lib COMMAND``: see :mod:`lib.workbook.cli`."""

import sys

from lib.workbook.cli import main

if __name__ == "__main__":
    sys.exit(main())
