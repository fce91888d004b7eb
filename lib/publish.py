"""What is published: ``python -m lib publish`` writes it from finished runs, and nothing else does.

The README's numbers, every block between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, and the
tables and figures under ``results``. They show the catalogue's runs, as far as they are there; what
a notebook explores has a folder of its own (:mod:`lib.notebook`). Measured times come from a
benchmark notebook's folder, which has to be named: they depend on the machine and its load.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib import (
    atomic,
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

#: Tables of measurements that are published: those of notebooks 31, 90 and 91, and the coders'.
MEASURED = re.compile(
    r"(codebooks|dtypes|epoch|file|l1-ball|projection|sizes|threshold-gradients|thresholding"
    r"|training-projections|training-steps|speed-cifar10|speed-cifar10-jpeg)-(cpu|cuda)\.csv"
    r"|coders\.csv|nncodec\.csv"
)

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


def publish() -> dict[str, list[Path]]:
    """Writes all that is published anew.

    Returns ``others``: files among the published ones that it does not write, so that they are from
    an older version or from somebody's hand; and ``uncommitted``: runs that are shown and that git
    does not hold yet. Raises ``Damaged`` for a run that is not whole; the README is written last.
    """
    text = render(README.read_text())
    written = draw()
    atomic.write(README, text.encode())
    folders = (_folder("tables"), _folder("figures"))
    there = [file for folder in folders for file in sorted(folder.glob("[!.]*"))]
    return {
        "others": [file for file in there if file not in written],
        "uncommitted": _uncommitted(paths.runs("mnist")),
    }


def take_measured(folder: Path) -> list[Path]:
    """Copies the measurements in ``folder``, a benchmark notebook's, to the published ones.

    Raises ``ValueError`` where it holds none.
    """
    files = [file for file in sorted(folder.glob("*.csv")) if MEASURED.fullmatch(file.name)]
    if not files:
        raise ValueError(
            f"{folder} holds no table of measurements: name the folder that notebook 31, 90 or 91 "
            "said it saves in (90 and 91 save with full=True)"
        )
    published = _folder("benchmarks")
    published.mkdir(parents=True, exist_ok=True)
    for file in files:
        atomic.write(published / file.name, file.read_bytes())
    return files


def _uncommitted(folder: Path) -> list[Path]:
    """The run folders that git does not hold as they are; none where there is no repository."""
    asked = ["git", "-C", str(folder), "status", "--porcelain", "-z", "--untracked-files=normal"]
    try:
        said = subprocess.run([*asked, "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    names = {Path(line[3:]).parts for line in said.split("\0") if line}
    return sorted({folder / parts[2] for parts in names if len(parts) > 2 and parts[:2] == RUNS})


#: Where git keeps run folders.
RUNS = ("results", "runs")

#: What this process has written since :func:`draw` began.
_written: set[Path] = set()


def _folder(kind: str) -> Path:
    """``tables``, ``figures`` or ``benchmarks`` of the real data sets, which share them."""
    return paths.results("mnist") / kind


def _table(table: pd.DataFrame, name: str) -> None:
    report.save(table, name, _folder("tables"))
    _written.add(_folder("tables") / f"{name}.csv")


def _figure(figure: Figure, name: str) -> None:
    plots.save(figure, name, _folder("figures"))
    plt.close(figure)
    _written.update(_folder("figures") / f"{name}.{kind}" for kind in ("png", "svg"))


def draw() -> set[Path]:
    """Writes the tables and figures of the finished runs into ``results``; returns the files.

    They are those that the notebooks make with ``dataset="mnist"`` and ``"cifar10-jpeg"``, of the
    runs that are there.
    """
    _written.clear()
    _draw_table_4()
    _draw_comparison()
    _draw_df()
    _draw_files()
    _draw_benchmarks()
    _draw_table_3()
    return set(_written)


def _draw_table_3() -> None:
    """Table 3, its rates, the allocation in its rows, and Figure 2, as far as there are runs."""
    rows = _rows()
    if not rows:
        return
    table = report.table_3(rows, dataset="mnist")
    _table(table[table["source"] == "ours"], "admm-table-3")
    with plt.style.context(plots.STYLE):
        rates = plots.rates(table, title="LeNet-5 on MNIST")
        _figure(rates, "admm-table-3-rates")
        layers = {
            f"{runs[0].result['budget']:,} bits, {report.label(runs[0])}": runs[0].layers
            for runs in rows
            if runs[0].experiment["stages"][0]["method"] == "admm"  # tuning moves no bits
        }
        even = {label: report.uniform(table) for label, table in layers.items()}
        bars = plots.allocation(layers, references=even, title="ADMM Figure 3, LeNet-5 on MNIST")
        _figure(bars, "admm-figure-3")
        curves = _curves()
        lines = plots.convergence(curves, title="ADMM Figure 2, LeNet-5 on MNIST")
        _figure(lines, "admm-figure-2")
        _table(report.figure_2(curves), "admm-figure-2")


def _draw_table_4() -> None:
    """Table 4, its rates, and the allocation in each of its networks, as far as there are runs."""
    rows, name = report.committed_rows_4(), MIRROR
    if not rows:
        return
    table = report.table_4(rows, dataset=name)
    _table(table[table["source"] == "ours"], f"admm-table-4-{name}")
    of = data.describe(name)
    panels = {"cifar10": f"reported: {data.describe('cifar10')}", name: f"ours: {of}"}
    with plt.style.context(plots.STYLE):
        rates = plots.rates_by_network(table, panels=panels, title="ADMM Table 4: rate and drop")
        _figure(rates, f"admm-table-4-rates-{name}")
        for network, layers in report.allocations(rows).items():
            even = {label: report.uniform(table) for label, table in layers.items()}
            title = f"nonzeros and bits of each layer, {network} on {of}"
            bars = plots.allocation(layers, references=even, title=title)
            _figure(bars, f"admm-figure-3-{network}-{name}")


def _draw_comparison() -> None:
    """LC's figure of results, and the methods head to head, as far as there are runs."""
    name = "mnist"
    with plt.style.context(plots.STYLE):
        table = report_comparison.results_curve(report_comparison.finished_curves(name))
        if not table.empty:
            _table(table, "lc-results")
            lines = plots_comparison.results_curve(table, title="LeNet-300-100 (tanh) on MNIST")
            _figure(lines, "lc-results")
        for network in comparison.RATES[name]:
            table = report_comparison.head_to_head(name, network)
            if not table.empty:
                _table(table, f"head-to-head-{network}")
                panels = plots_comparison.head_to_head(table, title=f"{network} on MNIST")
                _figure(panels, f"head-to-head-{network}")
        table = report_comparison.earned(name)
        if not table.empty:
            _table(table, "allocation-earns")
            asked = comparison.ALLOCATION_RATE[name]
            title = f"what the allocation earns: LeNet-300-100 on MNIST, {asked:,.0f}×"
            _figure(plots_comparison.earned(table, title=title), "allocation-earns")


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
            **report.shown_computed_in(table),
        }
    )
    return _markdown(shown)


def _control() -> str:
    """How the same runs stand against the dense network trained on, and how accurate they are."""
    table = report.table_3(_rows(), dataset="mnist")
    ours = table[table["source"] == "ours"]
    drops = ", ".join(map("{:.2f}".format, ours["control_drop"]))
    return (
        "Against the dense network trained on by the same schedule without compression, the rows "
        f"of ours lose {drops} points, in this order. {report.levels(table)}"
    )


def _figure_2() -> str:
    """The paper's claims about Figure 2, on the committed curves."""
    curves = _curves()
    if not set(experiments.FIGURE_2_RHOS) <= set(curves):
        return "Figure 2's four curves are not all there yet."
    lines = report.figure_2_claims(report.figure_2(curves)).splitlines()
    return "\n".join(f"- {line}" for line in lines)


def _curves() -> dict[float, pd.DataFrame]:
    """ρ → the history of Figure 2's curve of seed 0, as far as they are there."""
    found = {
        rho: report.finished(experiment, most=1)
        for rho, experiment in experiments.figure_2("mnist").items()
        if rho in experiments.FIGURE_2_RHOS
    }
    return {rho: runs[0].history for rho, runs in found.items() if runs}


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
            **report.shown_computed_in(table),
        }
    )


def _drops(table: pd.DataFrame, reported: str = "{:.1f}") -> list[str]:
    return [
        f"{row['drop_points']:.2f} [{row['drop_low']:.2f}, {row['drop_high']:.2f}] "
        f"over {row['interval_over']}, n = {row['n']:.0f}"
        if row["source"] == "ours"
        else reported.format(row["drop_points"])
        for _, row in table.iterrows()
    ]


def _accuracies(table: pd.DataFrame) -> list[str]:
    places = table["source"].map({"ours": 2, "reported": 1})
    return [
        "" if pd.isna(after) else f"{before:.{n}f} → {after:.{n}f} %"
        for before, after, n in zip(table["dense_accuracy"], table["accuracy"], places, strict=True)
    ]


def _head_to_head() -> str:
    """Each network's table, and which method wins where."""
    parts = []
    for network in comparison.RATES["mnist"]:
        table = report_comparison.head_to_head("mnist", network)
        if table.empty:
            continue
        shown = report_comparison.printed(table).rename(columns={"asked": f"{network}, asked"})
        said = report_comparison.verdict(report_comparison.by_seed("mnist", network))
        wins = "\n".join(f"- {line}" for line in said.splitlines())
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
    said = report_comparison.worth(report_comparison.earned_by_seed("mnist"))
    parts = "\n".join(f"- {line}" for line in said.splitlines())
    rows = _markdown(
        pd.DataFrame(
            {
                "LeNet-300-100 on MNIST": table["what"],
                "accuracy, %": table["accuracy"].map("{:.2f}".format) + spread,
                "nominal rate": table["rate"].map("{:,.0f}×".format),
                "epochs": table["epochs"],
                "n": table["n"],
                **report.shown_computed_in(table),
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
                **report.shown_computed_in(table),
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
    _table(table, f"df-curve-{MIRROR}")
    paper = report_df.reported("df_table3", network="resnet56")
    panels = {
        f"reported: ResNet-56, {data.describe('cifar10')}": (None, paper),
        f"ours: ResNet-20, {data.describe(MIRROR)}": (table, None),
    }
    with plt.style.context(plots.STYLE):
        lines = plots_df.curve(panels, title="DF Figure 3a: accuracy against MACs")
        _figure(lines, f"df-curve-{MIRROR}")


def _files() -> str:
    found = report_files.finished("mnist")
    if not found:
        return "No file of LeNet-5 on MNIST yet."
    curve = report_files.curve(found)
    table = report_files.printed(curve)
    source = report.reported("file_lenet5")["source"].iloc[0]
    said = "\n".join(f"- {line}" for line in report_files.beside_published(curve).splitlines())
    picture = "![Error against the file's size](results/figures/file-sizes.png)"
    return f"{_markdown(table)}\n\nPublished ({source}), and ours:\n\n{said}\n\n{picture}"


def _draw_files() -> None:
    found = report_files.finished("mnist")
    if not found:
        return
    table = report_files.curve(found)
    _table(table, "file-sizes")
    published = report.reported("file_lenet5").rename(columns={"bytes": "file"})
    curves = {
        "asked for in bytes": table,
        "asked for in nominal bits": report_files.nominal("mnist"),
        "MIRACLE, as published": published,
    }
    with plt.style.context(plots.STYLE):
        dense = float(table["dense_error"].mean())
        title = "LeNet-5 on MNIST: error against the file's size"
        _figure(plots_bytes.files(curves, dense=dense, title=title), "file-sizes")


def _draw_benchmarks() -> None:
    """What the committed measurements show: the costs of projections, and the ladders of speed."""
    folder = _folder("benchmarks")
    with plt.style.context(plots.STYLE):
        for file in sorted(folder.glob("sizes-*.csv")):
            table = pd.read_csv(file)
            title = f"Time of a projection, 54 layers, {table['device'].iloc[0]}"
            name = "projection-costs" + ("" if file.stem == "sizes-cpu" else "-cuda")
            _figure(plots.costs(table, title=title), name)
        for file in sorted(folder.glob("speed-*.csv")):
            table = pd.read_csv(file)
            title = "{network} on {dataset}, batch {batch}, {device}".format(**table.iloc[0])
            bars = table[table["step"] != "best loader, else as ours"]
            _figure(plots.ladder(bars, title=title), file.stem)


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "table-3": _table_3,
    "control": _control,
    "figure-2": _figure_2,
    "table-4": _table_4,
    "lc": _lc,
    "head-to-head": _head_to_head,
    "earned": _earned,
    "df": _df,
    "files": _files,
}
