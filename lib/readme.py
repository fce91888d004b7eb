"""The README's numbers: every block between two markers is written from the run folders.

A block begins with ``<!-- begin NAME -->`` and ends with ``<!-- end NAME -->``.
"""

import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd

from lib import (
    data,
    experiments,
    paths,
    plots,
    plots_bytes,
    plots_comparison,
    plots_df,
    report,
    report_comparison,
    report_df,
    report_files,
)
from lib.experiments import comparison, structured
from lib.runs import Run

README = paths.ROOT / "README.md"

#: The data set of Table 4's committed runs.
MIRROR = "cifar10-jpeg"


def render(text: str) -> str:
    """``text`` with every block written anew. Raises ``ValueError`` for a block nobody knows."""

    def block(match: re.Match) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise ValueError(f"README block {name!r} is unknown: choose {', '.join(BLOCKS)}")
        return f"<!-- begin {name} -->\n{BLOCKS[name]()}\n<!-- end {name} -->"

    pattern = r"<!-- begin (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->"
    return re.sub(pattern, block, text, flags=re.DOTALL)


def draw() -> None:
    """Writes the tables and figures of the committed runs into ``results``.

    They are those that the notebooks make with ``dataset="mnist"`` and ``"cifar10-jpeg"``, of the
    runs that are there.
    """
    _draw_table_4()
    _draw_comparison()
    _draw_df()
    _draw_files()
    rows = _rows()
    table = report.table_3(rows, dataset="mnist")
    report.save(table[table["source"] == "ours"], "admm-table-3", dataset="mnist")
    with plt.style.context(plots.STYLE):
        rates = plots.rates(table, title="LeNet-5 on MNIST")
        plots.save(rates, "admm-table-3-rates", dataset="mnist")
        layers = {
            f"{runs[0].result['budget']:,} bits, {report.label(runs[0])}": runs[0].layers
            for runs in rows
            if runs[0].experiment["stages"][0]["method"] == "admm"  # tuning moves no bits
        }
        even = {label: report.uniform(table) for label, table in layers.items()}
        bars = plots.allocation(layers, references=even, title="ADMM Figure 3, LeNet-5 on MNIST")
        plots.save(bars, "admm-figure-3", dataset="mnist")
        found = {
            rho: report.finished(experiment, most=1)
            for rho, experiment in experiments.figure_2("mnist").items()
            if rho in experiments.FIGURE_2_RHOS
        }
        curves = {rho: runs[0].history for rho, runs in found.items() if runs}
        lines = plots.convergence(curves, title="ADMM Figure 2, LeNet-5 on MNIST")
        plots.save(lines, "admm-figure-2", dataset="mnist")
        report.save(report.figure_2(curves), "admm-figure-2", dataset="mnist")


def _draw_table_4() -> None:
    """Table 4, its rates, and the allocation in each of its networks, as far as there are runs."""
    rows, name = report.committed_rows_4(), MIRROR
    if not rows:
        return
    table = report.table_4(rows, dataset=name)
    report.save(table[table["source"] == "ours"], f"admm-table-4-{name}", dataset=name)
    of = data.describe(name)
    panels = {"cifar10": f"reported: {data.describe('cifar10')}", name: f"ours: {of}"}
    with plt.style.context(plots.STYLE):
        rates = plots.rates_by_network(table, panels=panels, title="ADMM Table 4: rate and drop")
        plots.save(rates, f"admm-table-4-rates-{name}", dataset=name)
        for network, layers in report.allocations(rows).items():
            even = {label: report.uniform(table) for label, table in layers.items()}
            title = f"nonzeros and bits of each layer, {network} on {of}"
            bars = plots.allocation(layers, references=even, title=title)
            plots.save(bars, f"admm-figure-3-{network}-{name}", dataset=name)


def _draw_comparison() -> None:
    """LC's figure of results, and the methods head to head, as far as there are runs."""
    name = "mnist"
    with plt.style.context(plots.STYLE):
        table = report_comparison.results_curve(report_comparison.finished_curves(name))
        if not table.empty:
            report.save(table, "lc-results", dataset=name)
            lines = plots_comparison.results_curve(table, title="LeNet-300-100 (tanh) on MNIST")
            plots.save(lines, "lc-results", dataset=name)
        for network in comparison.RATES[name]:
            table = report_comparison.head_to_head(name, network)
            if not table.empty:
                report.save(table, f"head-to-head-{network}", dataset=name)
                panels = plots_comparison.head_to_head(table, title=f"{network} on MNIST")
                plots.save(panels, f"head-to-head-{network}", dataset=name)
        table = report_comparison.earned(name)
        if not table.empty:
            report.save(table, "allocation-earns", dataset=name)
            asked = comparison.ALLOCATION_RATE[name]
            title = f"what the allocation earns: LeNet-300-100 on MNIST, {asked:,.0f}×"
            plots.save(
                plots_comparison.earned(table, title=title), "allocation-earns", dataset=name
            )


def _rows() -> list[list[Run]]:
    """Table 3's runs on MNIST, those of an experiment together, as far as there are any."""
    found = [report.finished(experiment) for experiment in experiments.table_3("mnist")]
    return [runs for runs in found if runs]


def _table_3() -> str:
    table = report.table_3(_rows(), dataset="mnist")
    ours = table["source"] == "ours"
    shown = pd.DataFrame(
        {
            "LeNet-5 on MNIST": table["method"].where(~ours, "**" + table["method"] + "**"),
            "nonzero": table["nonzero_percent"].map("{:.1f} %".format),
            "bits": table["mean_bits"].map("{:.2f}".format),
            "nominal rate": table["rate"].map("{:,.0f}×".format),
            "drop, points": _drops(table),
            "dense → compressed": _accuracies(table),
            "entropy rate": table["entropy_rate"].map("{:,.0f}×".format).where(ours, ""),
            "file, bytes": report.shown(table["file_bytes"], "{:,.0f}", unknown=""),
        }
    )
    return _markdown(shown)


def _control() -> str:
    """How the same runs stand against the dense network trained on by the same schedule."""
    table = report.table_3(_rows(), dataset="mnist")
    ours = table[table["source"] == "ours"]
    drops = ", ".join(map("{:.2f}".format, ours["control_drop"]))
    return (
        "Against the dense network trained on by the same schedule without compression, the rows "
        f"of ours lose {drops} points, in this order."
    )


def _table_4() -> str:
    """The paper's rows and ours, which are of other pixels and so stand in a table of their own."""
    rows = report.committed_rows_4()
    table = report.table_4(rows, dataset=MIRROR)
    paper, ours = (table[table["source"] == source] for source in ("reported", "ours"))
    parts = [f"Reported, {data.describe('cifar10')}:", _markdown(_shown_4(paper))]
    if ours.empty:
        parts.append(report.committed_table_4())
    else:
        stated = {
            "dense → compressed": _accuracies(ours),
            "drop against control": ours["control_drop"].map("{:.2f}".format),
            "entropy rate": ours["entropy_rate"].map("{:,.1f}×".format),
            "file, bytes": report.shown(ours["file_bytes"], "{:,.0f}", unknown=""),
            "epochs": report.printed(ours)["epochs, dense + then"].tolist(),
        }
        parts += [f"Ours, {data.describe(MIRROR)}:", _markdown(_shown_4(ours).assign(**stated))]
        picture = f"results/figures/admm-table-4-rates-{MIRROR}.png"
        parts.append(f"![Accuracy drop against rate, the paper's rows and ours]({picture})")
    return "\n\n".join(parts)


def _shown_4(table: pd.DataFrame) -> pd.DataFrame:
    modes = {"joint": "joint", "prune": "pruning only", "quantize": "quantization only"}

    def stated(column: str, form: str) -> list[str]:
        return report.shown(table[column], form, unknown="")

    return pd.DataFrame(
        {
            "network": table["network"],
            "method": table["method"],
            "mode": table["mode"].map(modes),
            "nonzero": stated("nonzero_percent", "{:.1f} %"),
            "bits": stated("mean_bits", "{:.2f}"),
            "rate": stated("paper_rate", "{:,.1f}×"),
            "drop, points": _drops(table, "{:.2f}"),
        }
    )


def _drops(table: pd.DataFrame, reported: str = "{:.1f}") -> list[str]:
    return [
        "{drop_points:.2f} [{drop_low:.2f}, {drop_high:.2f}], n = {n:.0f}".format(**row)
        if row["source"] == "ours"
        else reported.format(row["drop_points"])
        for _, row in table.iterrows()
    ]


def _accuracies(table: pd.DataFrame) -> list[str]:
    return [
        f"{row['dense_accuracy']:.2f} → {row['accuracy']:.2f} %" if row["source"] == "ours" else ""
        for _, row in table.iterrows()
    ]


def _head_to_head() -> str:
    """Each network's table, and which method wins where."""
    parts = []
    for network in comparison.RATES["mnist"]:
        table = report_comparison.head_to_head("mnist", network)
        if table.empty:
            continue
        shown = report_comparison.printed(table).rename(columns={"asked": f"{network}, asked"})
        wins = "\n".join(f"- {line}" for line in report_comparison.verdict(table).splitlines())
        parts += [_markdown(shown), wins]
        picture = f"results/figures/head-to-head-{network}.png"
        parts.append(f"![Test error of each method against rate and epochs, {network}]({picture})")
    return "\n\n".join(parts) or report_comparison.committed_head_to_head()


def _lc() -> str:
    claims = report_comparison.committed_claims().splitlines()
    return "\n".join(f"- {claim.strip()}" for claim in claims)


def _earned() -> str:
    table = report_comparison.earned("mnist")
    if table.empty:
        return report_comparison.committed_earned()
    spread = table["accuracy_sd"].map(" ± {:.2f}".format).where(table["n"] > 1, "")
    parts = "\n".join(f"- {line}" for line in report_comparison.worth(table).splitlines())
    rows = _markdown(
        pd.DataFrame(
            {
                "LeNet-300-100 on MNIST": table["what"],
                "accuracy, %": table["accuracy"].map("{:.2f}".format) + spread,
                "nominal rate": table["rate"].map("{:,.0f}×".format),
                "epochs": table["epochs"],
                "n": table["n"],
            }
        )
    )
    return f"{rows}\n\n{parts}"


def _df_runs() -> report_df.Found:
    """DF's rows by the short schedule, those that are there, and its baselines'."""
    return report_df.finished(structured.curve(MIRROR, **structured.short(MIRROR)))


def _df() -> str:
    found = _df_runs()
    if not found:
        return f"No run on {data.describe(MIRROR)} yet."
    table = report_df.curve(found).sort_values(["asked", "method"], key=_order)
    rows = _markdown(
        pd.DataFrame(
            {
                f"resnet20, {data.describe(MIRROR)}": table["method"],
                "MACs less, asked": table["asked"].map("{:g} %".format),
                "built": table["reduction"].map("{:.1f} %".format),
                "parameters": table["parameters"].map("{:,.0f}".format),
                "accuracy, %": table["accuracy"].map("{:.2f}".format),
                "against dense": table["gain"].map("{:+.2f}".format),
                "against dense trained on": table["control_gain"].map("{:+.2f}".format),
                "n": table["n"],
            }
        )
    )
    lines = "\n".join(f"- {line}" for line in report_df.verdict(found).splitlines())
    return f"{rows}\n\n{lines}\n\n![Accuracy against MACs]({_picture('df-curve')})"


def _order(column: pd.Series) -> pd.Series:
    names = list(report_df.NAMES.values())
    return column.map(names.index) if column.name == "method" else column


def _picture(name: str) -> str:
    return f"results/figures/{name}-{MIRROR}.png"


def _draw_df() -> None:
    """Figure 3a with the paper's rows, as far as there are runs."""
    table = report_df.curve(_df_runs())
    if table.empty:
        return
    report.save(table, f"df-curve-{MIRROR}", dataset=MIRROR)
    paper = report_df.reported("df_table3", network="resnet56")
    panels = {
        f"reported: ResNet-56, {data.describe('cifar10')}": (None, paper),
        f"ours: ResNet-20, {data.describe(MIRROR)}": (table, None),
    }
    with plt.style.context(plots.STYLE):
        lines = plots_df.curve(panels, title="DF Figure 3a: accuracy against MACs")
        plots.save(lines, f"df-curve-{MIRROR}", dataset=MIRROR)


def _files() -> str:
    found = report_files.finished("mnist")
    if not found:
        return "No file of LeNet-5 on MNIST yet."
    table = report_files.printed(report_files.curve(found))
    others = report.reported("file_lenet5")
    said = "; ".join(
        f"{row.method} {row.bytes:,} bytes at {row.error:.2f} %" for row in others.itertuples()
    )
    picture = "![Error against the file's size](results/figures/file-sizes.png)"
    return f"{_markdown(table)}\n\nPublished ({others['source'].iloc[0]}): {said}.\n\n{picture}"


def _draw_files() -> None:
    found = report_files.finished("mnist")
    if not found:
        return
    table = report_files.curve(found)
    report.save(table, "file-sizes", dataset="mnist")
    published = report.reported("file_lenet5").rename(columns={"bytes": "file"})
    curves = {
        "asked for in bytes": table,
        "asked for in nominal bits": report_files.nominal("mnist"),
        "MIRACLE, as published": published,
    }
    with plt.style.context(plots.STYLE):
        dense = float(table["dense_error"].mean())
        title = "LeNet-5 on MNIST: error against the file's size"
        plots.save(
            plots_bytes.files(curves, dense=dense, title=title), "file-sizes", dataset="mnist"
        )


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "table-3": _table_3,
    "control": _control,
    "table-4": _table_4,
    "lc": _lc,
    "head-to-head": _head_to_head,
    "earned": _earned,
    "df": _df,
    "files": _files,
}
