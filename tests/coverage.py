"""The share of each package's lines that the tests ran: ``python -m tests.coverage``.

``make coverage`` runs the tests before it, which leave ``.coverage`` in the project's folder. What
runs in a process of its own, and what only a GPU runs, counts as not run.
"""

from collections import Counter
from pathlib import Path

import coverage

from lib.paths import ROOT


def packages() -> dict[str, tuple[int, int]]:
    """Package → statements, and how many of them were run."""
    data = coverage.Coverage(data_file=ROOT / ".coverage")
    data.load()
    statements, run = Counter(), Counter()
    for file in sorted((ROOT / "lib").rglob("*.py")):
        name = ".".join(Path(file).relative_to(ROOT).parts[:-1])
        _, lines, _, missing, _ = data.analysis2(str(file))
        statements[name] += len(lines)
        run[name] += len(lines) - len(missing)
    return {name: (statements[name], run[name]) for name in statements}


if __name__ == "__main__":
    for name, (lines, run) in packages().items():
        print(f"{name:28} {lines:6,} statements {run / max(1, lines):6.1%} run")
