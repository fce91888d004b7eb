"""The command line: ``python -m lib list | run | fetch | export | merge | verify | publish | …``.

Commands about runs are in :mod:`lib.workbook.cli.runs`, about files of compressed networks in
:mod:`lib.workbook.cli.files`; the one that makes such files is in :mod:`lib.workbook.cli.compress`,
the one that checks a GPU in :mod:`lib.workbook.benchmarks.gpu_check`.
"""

import argparse
import sys

from lib.workbook.benchmarks import gpu_check
from lib.workbook.cli import compress, files, runs
from lib.workbook.runs.parallel import EXPECTED


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, or 1 where something went wrong."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.set_defaults(command=function)
        return added

    for module in (runs, files, compress, gpu_check):
        module.add(command)
    return parser
