"""The papers' claims, listed twice before their results: whole, numbered, and each decidable."""

import re

import pandas as pd
import pytest

from lib import paths

CLAIMS = pd.read_csv(paths.REPORTED / "claims.csv", dtype=str, keep_default_na=False)

COLUMNS = ["id", "paper", "place", "kind", "claim", "test", "rows", "margin", "listed_by"]
PAPERS = ["ADMM", "DF", "LC"]
UNTESTED = "not tested here: "


def test_every_column_is_filled():
    assert list(CLAIMS.columns) == COLUMNS
    for column in COLUMNS:
        assert (CLAIMS[column] == CLAIMS[column].str.strip()).all()
        assert (CLAIMS[column] != "").all()
    assert CLAIMS["claim"].is_unique
    assert CLAIMS["claim"].str.endswith(".").all()


def test_ids_are_consecutive_in_each_paper():
    assert list(CLAIMS["paper"].unique()) == PAPERS
    for paper, rows in CLAIMS.groupby("paper"):
        assert list(rows["id"]) == [f"{paper.lower()}-{n:02d}" for n in range(1, len(rows) + 1)]


def test_kinds_are_known():
    assert set(CLAIMS["kind"]) == {"comparison", "trend", "equivalence"}


def test_each_paper_has_claims_of_both_lists_and_of_either_alone():
    for _, rows in CLAIMS.groupby("paper"):
        assert set(rows["listed_by"]) == {"both", "first", "second"}


def test_rows_name_a_data_set_or_the_reason_why_there_are_none():
    known = re.compile(f"(mnist|cifar10|digits)[ :]|(printed|no training): |{UNTESTED}")
    assert [rows for rows in CLAIMS["rows"] if not known.match(rows)] == []


def test_a_margin_says_a_number_or_that_nothing_is_measured():
    without = CLAIMS["margin"].str.startswith("no margin")
    assert CLAIMS["rows"][without].str.startswith(UNTESTED).all()
    decided = CLAIMS["margin"][~without]
    assert decided.str.contains(r"\d|^exact").all()
    assert decided.str.contains("holds if|matched if|equivalent if|interval").all()


@pytest.mark.parametrize(
    ("paper", "kind", "words"),
    [
        ("ADMM", "trend", "smaller ρ .* lower .* loss of W"),
        ("ADMM", "trend", "ρ = 0.05 is enough for the MSE .* vanish"),
        ("ADMM", "equivalence", "smaller τ′.* no improvement"),
        ("ADMM", "equivalence", "One ρ = 0.05 serves all"),
        ("ADMM", "equivalence", "no compression ratio .* by hand"),
        ("ADMM", "trend", "more bits to sparser layers"),
        ("DF", "comparison", "schedule of the sigmoid gains"),
        ("DF", "comparison", "hybrid is always the best"),
        ("DF", "trend", "Filter pruning contributes more .* as the reduction grows"),
        ("DF", "comparison", "Scheme 1 is significantly better than scheme 2"),
        ("DF", "equivalence", "One set of hyper-parameters serves all networks"),
        ("LC", "equivalence", "Constraint and penalty form are equivalent"),
        ("LC", "comparison", "Global sparsity beats local"),
    ],
)
def test_what_the_papers_are_known_for_is_there(paper, kind, words):
    there = CLAIMS[(CLAIMS["paper"] == paper) & (CLAIMS["kind"] == kind)]
    assert there["claim"].str.contains(words).any()
