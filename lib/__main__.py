"""``python -m lib COMMAND``: see :mod:`lib.workbook.cli`."""

import sys

from lib.workbook.cli import main

sys.exit(main())
