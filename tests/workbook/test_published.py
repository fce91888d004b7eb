"""What is committed is what the committed runs give: tables and figures' data cell by cell.

And the README block by block. The last tests change digits and see that each is noticed.
"""

import csv
import io
import math
import re

import matplotlib.pyplot as plt
import pytest

from lib import paths
from lib.workbook import plots, publish

TABLES = sorted((paths.ROOT / "results" / "tables").glob("*.csv"))
FIGURES = sorted((paths.ROOT / "results" / "figures").glob("*.csv"))

#: Columns of tables that are not read from runs: quantiles whose last bits differ by processor.
COMPUTED = re.compile(r".*_(low|high)")

#: Columns of numbers in a figure's data, written with nine digits.
DRAWN = ("x", "y", "x_end", "y_end")

REMEDY = "run: python -m lib publish"


@pytest.fixture(scope="session")
def made():
    """What the committed runs give, once: a CSV's text by ``tables/NAME`` and ``figures/NAME``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORKBOOK_RESULTS", raising=False)
        tables = publish.tables()
        found = {f"tables/{name}": table for name, table in tables.items()}
        for name, figure in publish.figures(tables):
            found[f"figures/{name}"] = plots.figure_data.of(figure)
            plt.close(figure)
        return {name: table.to_csv(index=False) for name, table in found.items()}


@pytest.fixture(scope="session")
def blocks():
    """Each block of the README as the committed runs give it, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORKBOOK_RESULTS", raising=False)
        return {name: block() for name, block in publish.BLOCKS.items()}


@pytest.fixture
def readme(blocks, monkeypatch):
    """The README's text; what its blocks say is not computed again."""
    for name, block in blocks.items():
        monkeypatch.setitem(publish.BLOCKS, name, lambda block=block: block)
    return publish.README.read_text()


def name_of(file):
    return f"{file.parent.name}/{file.stem}"


def as_stored(column, cell, wanted):
    """Whether a table's cell is the wanted one: to the letter, intervals to nine digits."""
    if COMPUTED.fullmatch(column) and cell and wanted:
        return math.isclose(float(cell), float(wanted), rel_tol=1e-9)
    return cell == wanted


def as_drawn(column, cell, wanted):
    """Whether a cell of a figure's data is the wanted one, rounded to the digits that are written.

    Half a unit of the last digit, and a bit of it for the processor's last bits.
    """
    if column not in DRAWN or not cell or not wanted:
        return cell == wanted
    value = float(wanted)
    if value == 0:
        return float(cell) == 0
    last = 10.0 ** (math.floor(math.log10(abs(value))) + 1 - plots.figure_data.DIGITS)
    return abs(float(cell) - value) <= 0.501 * last


SAME = {"tables": as_stored, "figures": as_drawn}


def differences(committed, wanted, same):
    """What of a committed CSV is not as wanted: a line for each cell."""
    (header, *rows), (columns, *lines) = (
        list(csv.reader(io.StringIO(t))) for t in (committed, wanted)
    )
    if header != columns or len(rows) != len(lines):
        return [f"{len(rows)} rows of {header}, not {len(lines)} of {columns}"]
    return [
        f"row {i}, {column}: {cell!r}, not {other!r}"
        for i, (row, line) in enumerate(zip(rows, lines, strict=True), start=1)
        for column, cell, other in zip(header, row, line, strict=True)
        if not same(column, cell, other)
    ]


# ---------------------------------------------------------------------- what is committed is right


def test_every_file_is_one_that_is_published_and_none_is_missing(made):
    kinds = {"tables": ("csv",), "figures": ("csv", "png", "svg")}
    wanted = {f"{name}.{kind}" for name in made for kind in kinds[name.split("/")[0]]}
    folders = (paths.ROOT / "results" / kind for kind in kinds)
    files = [file for folder in folders for file in folder.glob("[!.]*")]
    assert {f"{file.parent.name}/{file.name}" for file in files} == wanted, REMEDY
    assert all(file.stat().st_size > 10_000 for file in files if file.suffix != ".csv")


@pytest.mark.parametrize("file", [*TABLES, *FIGURES], ids=name_of)
def test_every_cell_is_what_the_runs_give(file, made):
    found = differences(file.read_text(), made[name_of(file)], SAME[file.parent.name])
    assert not found, REMEDY


def test_the_readme_says_what_the_runs_say(readme):
    assert publish.render(readme) == readme, REMEDY


def test_the_readme_has_every_block_once_and_shows_figures_that_are_there(readme):
    begun = re.findall(r"<!-- begin ([\w-]+) -->", readme)
    assert begun == re.findall(r"<!-- end ([\w-]+) -->", readme)
    assert sorted(begun) == sorted(publish.BLOCKS)
    pictures = re.findall(r"\((results/[^)]+)\)", readme)
    assert pictures
    assert all((paths.ROOT / picture).exists() for picture in pictures)


# ------------------------------------------------------------------------- a changed digit is seen


def changed(cell, *, at=-1):
    """``cell`` with one digit changed, its last or its first; with a digit, if it has none."""
    places = [place.start() for place in re.finditer(r"\d", cell)]
    if not places:
        return f"{cell}5"
    digit = (int(cell[places[at]]) + 5) % 10
    return f"{cell[: places[at]]}{digit}{cell[places[at] + 1 :]}"


def spoiled(text, row, column, **place):
    """The CSV with one cell changed."""
    rows = list(csv.reader(io.StringIO(text)))
    rows[row][column] = changed(rows[row][column], **place)
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def places_of(file, header, rows):
    """Cells to spoil: all of a table, of a figure the first and the last row of each kind."""
    if file in TABLES:
        return range(1, len(rows) + 1)
    kinds = [row[header.index("kind")] for row in rows]
    ends = {kind: (kinds.index(kind), len(kinds) - 1 - kinds[::-1].index(kind)) for kind in kinds}
    return {1 + end for both in ends.values() for end in both}


@pytest.mark.parametrize("file", [*TABLES, *FIGURES], ids=name_of)
def test_a_changed_digit_in_any_cell_is_seen(file, made):
    text, wanted, same = file.read_text(), made[name_of(file)], SAME[file.parent.name]
    header, *rows = csv.reader(io.StringIO(text))
    for row in places_of(file, header, rows):
        for i, column in enumerate(header):
            # of an interval's seventeen digits the last eight may differ by processor
            at = 0 if file in TABLES and COMPUTED.fullmatch(column) else -1
            (found,) = differences(spoiled(text, row, i, at=at), wanted, same)
            assert found.startswith(f"row {row}, {column}: ")


@pytest.mark.parametrize("file", [TABLES[0], FIGURES[0]], ids=name_of)
def test_a_missing_row_is_seen(file, made):
    text = "".join(file.read_text().splitlines(keepends=True)[:-1])
    assert differences(text, made[name_of(file)], SAME[file.parent.name])


@pytest.mark.parametrize("name", publish.BLOCKS)
def test_any_changed_digit_in_a_block_of_the_readme_is_seen(name, blocks, readme):
    mark = f"<!-- begin {name} -->\n"
    begin = readme.index(mark) + len(mark)
    assert readme[begin:].startswith(blocks[name])
    places = [begin + place.start() for place in re.finditer(r"\d", blocks[name])]
    assert places or name == "gpu"  # which says that there is no number
    for place in places:
        spoilt = f"{readme[:place]}{changed(readme[place])}{readme[place + 1 :]}"
        assert publish.render(spoilt) == readme  # and so it is not what is committed
