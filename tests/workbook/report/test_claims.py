"""The papers' claims, listed twice before their results: whole, numbered, and each decidable."""

import re

import pandas as pd

from lib import paths

CLAIMS = pd.read_csv(paths.REPORTED / "claims.csv", dtype=str, keep_default_na=False)

COLUMNS = ["id", "paper", "place", "kind", "claim", "test", "rows", "margin", "listed_by"]
UNTESTED = "not tested here: "


def test_every_column_is_filled():
    assert list(CLAIMS.columns) == COLUMNS
    assert CLAIMS.map(lambda cell: cell != "" and cell == cell.strip()).all(axis=None)
    assert CLAIMS["claim"].is_unique
    assert CLAIMS["claim"].str.endswith(".").all()


def test_ids_are_consecutive_and_kinds_known():
    assert list(CLAIMS["paper"].unique()) == ["ADMM", "DF", "LC"]
    for paper, rows in CLAIMS.groupby("paper"):
        assert list(rows["id"]) == [f"{paper.lower()}-{n:02d}" for n in range(1, len(rows) + 1)]
        assert set(rows["listed_by"]) == {"both", "first", "second"}
    assert set(CLAIMS["kind"]) == {"comparison", "trend", "equivalence"}


def test_rows_name_a_data_set_or_the_reason_why_there_are_none():
    known = re.compile(f"(mnist|cifar10|digits)[ :]|(printed|no training): |{UNTESTED}")
    assert [rows for rows in CLAIMS["rows"] if not known.match(rows)] == []


def test_a_margin_says_a_number_or_that_nothing_is_measured():
    without = CLAIMS["margin"].str.startswith("no margin")
    assert CLAIMS["rows"][without].str.startswith(UNTESTED).all()
    decided = CLAIMS["margin"][~without]
    assert decided.str.contains(r"\d|^exact").all()
    assert decided.str.contains("holds if|matched if|equivalent if|interval").all()
