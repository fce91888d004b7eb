"""Committed rows, shown in notebooks: ``print(report.committed("table-4"))``.

A cell that shows them is tagged ``committed-NAME``, and compared with what the runs say now.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from lib.workbook import benchmarks, experiments
from lib.workbook.report import (
    admm,
    byte_budget,
    coders,
    comparison,
    df,
    imagenet,
    imagenet_df,
    lc,
    speed,
    trials,
)
from lib.workbook.report.columns import headed, none, text
from lib.workbook.report.rows import finished
from lib.workbook.runs import Run

#: What a committed table says.
Said = Callable[[], str]


def _of(wanted: Callable, said: Callable[..., str], dataset: str = "mnist", **most) -> Said:
    """What is said of the finished runs among those that are wanted."""

    def text() -> str:
        found = finished(wanted(dataset), **most)
        return said(found) if found else ""

    return text


def _df(wanted: Callable, said: Callable[[df.Found], pd.DataFrame | str], **options) -> Said:
    """Runs of DF on CIFAR-10's pixels, then on the mirror's: text, or a table in its order."""

    def text_of(found: df.Found) -> str:
        made = said(found)
        return made if isinstance(made, str) else text(made, df.SHOWN)

    return partial(df.by_place, wanted, text_of, **options)


def _ordered(*keys: str) -> Callable[[df.Found], pd.DataFrame]:
    return lambda found: df.table(found, keys).sort_values("asked", kind="stable")


def _table_3(rows: Sequence) -> str:
    return text(admm.table_3(rows, dataset="mnist"), admm.TABLE_3)


def _levels(rows: Sequence) -> str:
    return admm.levels(admm.table_3(rows, dataset="mnist"))


def _figure_2(curves: Mapping) -> str:
    table = admm.figure_2({rho: runs[0].history for rho, runs in curves.items()})
    return table.to_string(index=False, float_format="{:.3g}".format)


def _meetings(found: Mapping) -> str:
    table = lc.convergence({name: runs[0].history for name, runs in found.items()})
    return f"{experiments.lc.NETWORK} on MNIST\n{text(table, lc.CONVERGENCE)}"


def _curve(curves: lc.Curves) -> str:
    return headed(f"{experiments.lc.NETWORK} on MNIST", lc.results_curve(curves), "{:.3g}")


def _tenth(curves: lc.Curves) -> str:
    heading = "10 % kept or more, error above the dense network trained on, points"
    return headed(heading, lc.over_control(lc.results_curve(curves), kept=10), "{:+.2f}")


def _quantized() -> str:
    return headed("lenet300 on MNIST, accuracy in %", comparison.quantized("mnist"))


def _overlap(found: Sequence[Run]) -> str:
    return comparison.overlap(found[0]).to_string()


CURVES = experiments.lc.curves

#: Name → what its rows are, of which data set, and what says them, empty where none is there.
COMMITTED: dict[str, tuple[str, str, Said]] = {
    "table-3": ("Table 3", "mnist", _of(experiments.table_3, _table_3)),
    "table-3-levels": ("Table 3", "mnist", _of(experiments.table_3, _levels)),
    "table-3-parts": ("Table 3", "mnist", _of(experiments.table_3, coders.file_parts_text)),
    "figure-2": ("Figure 2", "mnist", _of(experiments.figure_2, _figure_2, most=1)),
    "layers": ("Figure 3", "mnist", _of(experiments.table_3, admm.layers_text, most=1)),
    "table-4": ("Table 4", "cifar10", admm.table_4_text),
    "table-2": ("Table 2", "imagenet", imagenet.table_2_text),
    "endings": ("ADMM's ends", "cifar10", trials.ends_text),
    "meetings": ("how w and θ meet", "mnist", _of(experiments.lc.meetings, _meetings, most=1)),
    "curve": ("LC's figure of results", "mnist", _of(CURVES, _curve)),
    "claims": ("LC's figure of results", "mnist", lc.claims),
    "tenth": ("LC's figure of results", "mnist", _of(CURVES, _tenth)),
    "least": ("LC's figure of results", "mnist", _of(CURVES, lc.least)),
    "head-to-head": ("the head to head", "mnist", comparison.head_to_head_text),
    "quantized": ("k-means at a fixed width", "mnist", _quantized),
    "trials": ("the trials of knobs", "mnist", trials.knobs_text),
    "earned": ("what the allocation earns", "mnist", comparison.weight_choices_text),
    "overlap": ("ADMM's allocation", "mnist", _of(comparison.allocated, _overlap, most=1)),
    "df-curve": ("DF's Table 3", "cifar10", _df(experiments.df.curve, df.curve_text)),
    "df-parts": ("DF's Figure 4b", "cifar10", _df(df.hybrids, df.parts_text)),
    "df-schedule": ("DF's Table 1", "cifar10", _df(experiments.df.schedule_rows, df.schedule)),
    "df-printed": (
        "DF nearer to the letter",
        "cifar10",
        _df(experiments.df.as_printed, lambda found: df.landings(found, ["asked"])),
    ),
    "df-binary": ("DF with binary masks", "cifar10", _df(experiments.df.binary, _ordered("asked"))),
    "df-tried": ("DF's β and C", "cifar10", trials.grid_text),
    "df-schemes": (
        "DF's Figure 5",
        "cifar10",
        _df(experiments.df.schemes, _ordered("scheme", "asked")),
    ),
    "df-gain": ("where DF's gain comes from", "cifar10", _df(experiments.df.gain, df.gain_text)),
    "df-both": ("both kinds of compression", "cifar10", _df(experiments.df.twice, df.both)),
    "df-table-5": (
        "DF's Table 5",
        "cifar10",
        _df(experiments.df.table_5, _ordered("asked"), lengths=("full",)),
    ),
    "df-table-5-beside": (
        "DF's Table 5",
        "cifar10",
        lambda: text(df.table_5(), df.SHOWN, waiting=df.MEASURED),
    ),
    "df-imagenet": ("DF's Tables 4 and 6", "imagenet", imagenet_df.beside_text),
    "files": (
        "LeNet-5 in files of a size",
        "mnist",
        _of(experiments.byte_budget.curve, byte_budget.files_text),
    ),
    "coders": ("the coders", "mnist", coders.coders_text),
    "speed": ("the ladder of speed", "cifar10", speed.speed_text),
    "counted": ("the counts", "mnist", benchmarks.committed_counted),
}


def committed(name: str) -> str:
    """What the committed runs say of ``name``, of :data:`COMMITTED`; one line where none is there.

    Raises ``ValueError`` for a name that is not known.
    """
    if name not in COMMITTED:
        raise ValueError(f"{name!r} is unknown: choose {', '.join(COMMITTED)}")
    what, dataset, said = COMMITTED[name]
    return said() or none(what, dataset)
