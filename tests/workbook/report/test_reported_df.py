"""DF's tables as printed: every delta follows from its row, but for the misprints named here."""

import pytest

from lib.workbook import report

#: Table → (network, algorithm, delta as printed, accuracy − baseline).
MISPRINTS = {
    "df_table3": [("resnet56", "CHIP", 0.75, 0.90), ("resnet56", "SRR-GR", -0.37, 0.37)],
    "df_table4": [("resnet50", "Stable", -1.47, -1.49)],
    "df_table5": [("resnet56", "ASRFP", -3.32, -3.76)],
    "df_table6": [("mobilenetv2", "LeGR", -0.20, -0.40), ("mobilenetv2", "DF", 0.20, 0.36)],
}
#: Table → rows of low rank, of pruning, of both.
ROWS = {
    **{"df_table3": [7, 18, 8], "df_table4": [6, 19, 10]},
    **{"df_table5": [3, 8, 6], "df_table6": [4, 17, 6]},
}


@pytest.mark.parametrize("name", MISPRINTS)
def test_deltas_follow_from_their_rows(name):
    table = report.reported(name)
    exact = (table["accuracy"] - table["baseline_accuracy"]).round(2)
    wrong = exact.notna() & ((table["delta"] - exact).abs() > 0.005)
    found = table[wrong].assign(exact=exact)
    columns = ["network", "algorithm", "delta", "exact"]
    assert list(found[columns].itertuples(index=False, name=None)) == MISPRINTS[name]
    # where nothing follows, nothing is printed
    assert table["delta"].isna().equals(table["baseline_accuracy"].isna())


@pytest.mark.parametrize("name", MISPRINTS)
def test_every_row_is_there(name):
    table = report.reported(name)
    kinds = ["low-rank", "pruning", "hybrid"]
    assert table["kind"].value_counts()[kinds].tolist() == ROWS[name]
    for _, rows in table.groupby(["dataset", "network"]):
        assert list(rows["kind"]) == sorted(rows["kind"], key=kinds.index)
    assert set(table["algorithm"][table["kind"] == "hybrid"]) <= {"CC", "Hinge", "DF", "EDP"}
    assert (table["kind"][table["algorithm"] == "DF"] == "hybrid").all()


@pytest.mark.parametrize("name", ROWS)
def test_what_is_saved_agrees_with_what_is_left(name):
    """The rows of a network were measured against one unsaid dense network, or nearly."""
    table = report.reported(name)
    cost = "mflops" if "mflops" in table else "gflops"
    for left, saved, most in (
        (cost, "reduction_percent", 0.10),
        ("parameters_m", "parameter_reduction_percent", 0.08),
    ):
        stated = table.dropna(subset=[left])
        dense = stated[left] / (1 - stated[saved] / 100)
        middle = dense.groupby([stated["dataset"], stated["network"]]).transform("median")
        assert ((dense / middle - 1).abs() < most).all(), stated.assign(dense=dense, middle=middle)


def test_table_2():
    """σ₁ is a layer's own, so τ = 5/σ₁ (Section 6.2.2); μ₀ is below α."""
    table = report.reported("df_table2").set_index("setting")
    assert table.loc["C"].tolist() == [5, 5, 5]
    assert (table.loc["mu_0"] == 2).all()
    assert (table.loc["mu_0"] + table.loc["beta"] < table.loc["alpha"]).all()
    # the network for ImageNet is published, and not trained
    assert table.isna().sum().to_dict() == {"cifar10": 0, "cifar100": 0, "imagenet": 1}


def test_table_1():
    table = report.reported("df_table1").pivot(
        index="reduction_percent", columns="sigmoid", values="accuracy"
    )
    assert list(table.index) == [50, 60, 70]
    assert (table["scheduled"] > table["plain"]).all()
