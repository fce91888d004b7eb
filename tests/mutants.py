"""Small faults put into the core, one at a time, to see whether the tests notice.

``python -m tests.mutants run COLUMN [NUMBER ...]`` runs the tests on each mutant in
``tests/golden/mutants.csv``, or on those named, and writes the outcomes into that column
(``before`` or ``after``); ``check COLUMN`` runs the tests that noticed something on the code as it
is, where they must pass. Files are those that git tracks.

The fifty were drawn before the core was rearranged, one in a function, more often in a long one;
commit 12fcb1f has the code that drew them. A mutant is a line of code, the text that replaces it,
and the function in which it stands, so that it is found again after the function has moved to
another file or class. Where nothing is found the outcome says so: then change ``file``,
``function``, ``line`` and ``mutant`` in its row by hand. cosmic-ray and mutmut draw no sample and
remember positions in files, hence the standard library.

What only a GPU runs was left out, and so are the tests of the workbook (``WORKBOOK``): experiments,
reports, notebooks, commands. The tests named like the mutant's module run first, then those that
import it, the fewest imports away first, short files first. Both have ``SECONDS`` of a processor
(``MUTANT_SECONDS`` in the environment gives another number): ``survived 60 s`` says that not all
could run. A test that is still running ``GRACE`` seconds later has noticed the mutant:
``killed: timeout``.
"""

import ast
import csv
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copy2

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "golden" / "mutants.csv"

WORKBOOK = re.compile(
    "arithmetic|batch|benchmarks|calibration|claims|command|count_calls|environment|experiments"
    "|exploring|figure|gpu|measure|notebook|plots|publish|queue|readme|report|slurm|statistics"
    "|step_costs|transfer|workbook|yardsticks"
)

SECONDS, GRACE = int(os.environ.get("MUTANT_SECONDS", 60)), 90


@dataclass(frozen=True)
class Mutant:
    file: str
    function: str
    operator: str
    line: str
    mutant: str


class Source:
    """A file and its functions, methods too, not those inside others."""

    def __init__(self, path: Path):
        text = path.read_text()
        self.lines = text.split("\n")
        self.functions = dict(_functions(ast.parse(text).body))

    def numbers(self, function: ast.AST, line: str) -> list[int]:
        """Where in ``function`` a line reads so, counted from 0."""
        inside = range(function.lineno - 1, function.end_lineno)
        return [i for i in inside if self.lines[i].strip() == line]


def _functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _modules() -> list[Path]:
    return sorted((ROOT / "lib").rglob("*.py"))


def place(mutant: Mutant) -> tuple[Path, int] | None:
    """The file and line of a mutant: where it was drawn, or where its function went."""
    sources = {path: Source(path) for path in _modules()}
    last = mutant.function.rpartition(".")[2]
    for fits in (
        lambda path, name: _relative(path) == mutant.file and name == mutant.function,
        lambda path, name: name == mutant.function,
        lambda path, name: name.rpartition(".")[2] == last,
        lambda path, name: True,
    ):
        found = [
            (path, number)
            for path, source in sources.items()
            for name, function in source.functions.items()
            if fits(path, name)
            for number in source.numbers(function, mutant.line)
        ]
        if len(found) == 1:
            return found[0]
    return None


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ``lib`` whose names a file uses, behind what their package passes on."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.add(_origin(node.module, alias.name, known))
    return found & known.keys()


def _origin(module: str, name: str, known: dict[str, Path]) -> str:
    if f"{module}.{name}" in known:
        return f"{module}.{name}"
    if module in known and known[module].name == "__init__.py":
        for node in ast.walk(ast.parse(known[module].read_text())):
            if isinstance(node, ast.ImportFrom):
                given = {alias.asname or alias.name: alias.name for alias in node.names}
                if name in given:
                    return _origin(node.module, given[name], known)
    return module


def tests_of(module: str) -> tuple[list[str], list[str]]:
    """The core's test files named like a module, and the others that reach it, nearest first."""
    known = {_module(path): path for path in _modules()}
    importers = {name: _imports(path, known) for name, path in known.items()}
    distances, reached = {module: 1}, [module]
    for current in reached:
        for name in sorted(importers):
            if current in importers[name] and name not in distances:
                distances[name] = distances[current] + 1
                reached.append(name)
    words = set(re.split(r"[._]", module))
    own, others = [], {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = _relative(path)
        far = min((distances.get(m, 99) for m in _imports(path, known)), default=99)
        parallel = "distributed" in name and not module.endswith("distributed")
        if WORKBOOK.search(name) or parallel:
            continue
        if set(path.stem.split("_")[1:]) <= words:
            own.append(name)
        elif far < 99:
            others[name] = far, path.stat().st_size
    return own, sorted(others, key=others.__getitem__)


def outcome(mutant: Mutant) -> str:
    """What the tests say of a mutant, in a copy of the project."""
    found = place(mutant)
    if found is None:
        return "line not found"
    path, number = found
    source = Source(path)
    source.lines[number] = source.lines[number].replace(mutant.line, mutant.mutant)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        _copy(tree)
        (tree / _relative(path)).write_text("\n".join(source.lines))
        said = "survived"  # where no test reaches it
        for tests in filter(None, tests_of(_module(path))):
            said = _tested(tree, tests, SECONDS)
            if said.startswith("killed"):
                break
        return said


def check(noticed: list[str]) -> str:
    """What these tests say of the code as it is."""
    with tempfile.TemporaryDirectory() as folder:
        _copy(Path(folder))
        return _tested(Path(folder), noticed, 3600)


def _copy(tree: Path) -> None:
    """What git tracks, what numba compiled beside it, and a link to every data set."""
    told = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    cached = [_relative(path) for path in (ROOT / "lib").rglob("*.nb*")]
    tracked = [name for name in told.stdout.decode().split("\0") if (ROOT / name).is_file()]
    for name in tracked + cached:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        copy2(ROOT / name, tree / name)
    for path in (ROOT / "data").iterdir():
        if not (tree / "data" / path.name).exists():
            (tree / "data" / path.name).symlink_to(path.resolve())


def _tested(tree: Path, tests: list[str], seconds: int) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "MUTANT_SECONDS": str(seconds),
    }
    flags = ["-x", "-q", "-rfE", "--tb=no", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *flags, "-p", "tests.mutants", *tests]

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (seconds + GRACE, seconds + GRACE))

    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=4 * (seconds + GRACE),
            preexec_fn=limit,
        )
    except subprocess.TimeoutExpired:
        return "killed: timeout"
    if done.returncode < 0:
        return "killed: timeout" if done.returncode in (-9, -24) else "killed: crash"
    noticed = re.search(r"^(?:FAILED|ERROR) tests/([\w./]+(?:::\w+)?)", done.stdout, re.MULTILINE)
    if noticed:
        return f"killed: {noticed[1]}"
    if done.returncode:
        return f"killed: {done.stdout.strip().splitlines()[-1:]}"
    return f"survived {seconds} s" if "_pytest.outcomes.Exit" in done.stdout else "survived"


def pytest_runtest_logstart() -> None:
    """This module is also pytest's plugin in the copy: no test begins after the time allowed."""
    if time.process_time() > float(os.environ.get("MUTANT_SECONDS", "inf")):
        pytest.exit("the time allowed is over", returncode=0)


def _read() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(rows: list[dict[str, str]]) -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["run", "before" | "after" as column, *numbers]:
            for row in _read():
                if numbers and row["number"] not in numbers:
                    continue
                fields = ("file", "function", "operator", "line", "mutant")
                said = outcome(Mutant(*(row[name] for name in fields)))
                print(row["number"], said, flush=True)
                _write([r | {column: said} if r["number"] == row["number"] else r for r in _read()])
        case ["check", "before" | "after" as column]:
            said = [row[column].removeprefix("killed: ") for row in _read()]
            print(check(sorted({f"tests/{test}" for test in said if ".py" in test})))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
