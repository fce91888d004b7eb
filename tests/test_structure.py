"""The house: imports go one way, modules and functions stay small, each package keeps its size."""

import ast
import csv
from itertools import pairwise
from pathlib import Path

from lib.paths import ROOT
from tests import size

#: A package imports those before it, and itself. ``lib`` alone, which gives ``lib.compress`` when
#: it is asked for, and ``lib.__main__`` stand outside.
ORDER = (
    *("lib.paths", "lib.atomic", "lib.layers", "lib.projections", "lib.data", "lib.networks"),
    *("lib.accounting", "lib.training", "lib.structured", "lib.archive", "lib.optimizers"),
    *(
        "lib.compression",
        "lib.workbook.calibration",
        "lib.workbook.experiments",
    ),
    *("lib.workbook.runs", "lib.workbook.benchmarks", "lib.workbook.report"),
    *("lib.workbook.plots", "lib.workbook.publish", "lib.workbook.notebook", "lib.workbook.cli"),
)
OUTSIDE = ("lib", "lib.__main__", "lib.workbook")

#: What a package may hold at most: raising a number is a line of CHANGELOG.md.
SIZES = Path(__file__).parent / "golden" / "sizes.csv"


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "lib").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imports() -> dict[str, set[str]]:
    """Module → the modules of ``lib`` that it imports, at its top or in a function."""
    known, found = modules(), {}
    for name, file in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {one if one in known else node.module for one in inner}
    return found


def package(module: str) -> str:
    (found,) = [one for one in ORDER if module == one or module.startswith(f"{one}.")]
    return found


def test_every_module_has_a_place_in_the_order():
    assert [package(module) for module in modules() if module not in OUTSIDE]


def test_imports_go_one_way():
    against = [
        f"{module} imports {one}"
        for module, used in imports().items()
        if module not in OUTSIDE
        for one in sorted(used - set(OUTSIDE))
        if ORDER.index(package(one)) > ORDER.index(package(module))
    ]
    assert not against


def test_no_module_imports_itself_by_way_of_others():
    graph, done = imports(), set()

    def walk(module, path):
        if module in path:
            raise AssertionError(" → ".join([*path[path.index(module) :], module]))
        if module not in done:
            for one in sorted(graph[module]):
                walk(one, [*path, module])
            done.add(module)

    for module in graph:
        walk(module, [])


def test_the_top_is_small_and_no_module_or_function_is_long():
    top = {file.name for file in (ROOT / "lib").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert len(top) <= 10
    lines = {name: len(file.read_text().splitlines()) for name, file in modules().items()}
    assert not {name: count for name, count in lines.items() if count > 500}
    assert not size.long_functions(ROOT)


def test_each_package_keeps_its_size():
    with SIZES.open(newline="") as file:
        most = {row["package"]: row for row in csv.DictReader(file)}
    now = size.sizes(ROOT)
    assert list(most) == list(now)
    over = {
        f"{name}: {column} {now[name][column]:,} > {most[name][column]}"
        for name, column in ((name, column) for name in most for column in ("code", "tokens"))
        if now[name][column] > int(most[name][column])
    }
    assert not over, "make it smaller, or raise its number and say why in CHANGELOG.md"


def test_the_order_names_each_package_once():
    assert all(a != b for a, b in pairwise(sorted(ORDER)))
