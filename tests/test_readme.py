"""No number in the README is typed by hand."""

import pytest

from lib import readme


def test_the_readme_says_what_the_runs_say():
    text = readme.README.read_text()
    assert readme.render(text) == text, "run: python -m lib readme"


def test_only_what_is_between_markers_changes(monkeypatch):
    monkeypatch.setitem(readme.BLOCKS, "one", lambda: "new")
    text = "before\n<!-- begin one -->\nold\nolder\n<!-- end one -->\nafter\n"
    assert readme.render(text) == "before\n<!-- begin one -->\nnew\n<!-- end one -->\nafter\n"


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="'nonsense' is unknown: choose table-3"):
        readme.render("<!-- begin nonsense -->\n<!-- end nonsense -->")
