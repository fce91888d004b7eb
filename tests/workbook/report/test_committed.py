"""What notebooks show of committed runs, and what stands there where there is none."""

import pytest

from lib.workbook import report

#: What is said where nothing is measured, of what no run is asked.
OTHERWISE = {
    "table-2": "Not measured yet. Table 2 on ImageNet (ILSVRC2012)",
    "df-table-5-beside": "             network  asked, %",
    "df-imagenet": "            network  asked, %",
    "speed": "Not measured on CIFAR yet; notebook 31 says how.",
    "counted": "Not counted yet;",
}


@pytest.mark.parametrize("name", [name for name in report.COMMITTED if name != "coders"])
def test_where_no_run_is_there_a_line_says_so(name, results):
    what, dataset, _ = report.COMMITTED[name]
    said = report.committed(name).strip()
    if name in OTHERWISE:
        assert said.startswith(OTHERWISE[name].strip().split("  ")[0])
    else:
        assert said.startswith(f"No run of {what} is committed yet (")
        assert said.endswith(f"make reproduce DATASET={dataset} trains them.")
        assert "\n" not in said


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'table-9' is unknown: choose table-3"):
        report.committed("table-9")
