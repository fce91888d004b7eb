"""Committed rows, shown in notebooks: ``print(report.committed("table-4"))``.

A cell that shows them is tagged ``committed-NAME``, and compared with what the runs say now.
"""

from collections.abc import Callable, Sequence
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
from lib.workbook.report.columns import headed, none, numbers, text
from lib.workbook.report.rows import finished, histories

#: What a committed table says.
Said = Callable[[], str]


def _of(wanted: Callable, said: Callable[..., str], **most) -> Said:
    """What is said of the finished runs of MNIST among those that are wanted."""

    def text() -> str:
        found = finished(wanted("mnist"), **most)
        return said(found) if found else ""

    return text


def _df(wanted: Callable, said: Callable[[df.Found], pd.DataFrame | str], **options) -> Said:
    return partial(df.by_place, wanted, said, **options)


def _ordered(*keys: str) -> Callable[[df.Found], pd.DataFrame]:
    return lambda found: df.table(found, keys).sort_values("asked", kind="stable")


def _table_3(rows: Sequence) -> str:
    return text(admm.table_3(rows, dataset="mnist"), admm.TABLE_3)


def _levels(rows: Sequence) -> str:
    return admm.levels(admm.table_3(rows, dataset="mnist"))


def _figure_2() -> str:
    return numbers(admm.figure_2(histories(experiments.figure_2("mnist"))), "{:.3g}")


def _meetings() -> str:
    return headed(LENET300, text(lc.convergence(lc.finished_histories("mnist")), lc.CONVERGENCE))


def _curve(curves: lc.Curves) -> str:
    return headed(LENET300, numbers(lc.results_curve(curves), "{:.3g}"))


def _tenth(curves: lc.Curves) -> str:
    heading = "10 % kept or more, error above the dense network trained on, points"
    return headed(heading, numbers(lc.over_control(lc.results_curve(curves), kept=10), "{:+.2f}"))


TABLE_3, CURVES, ROWS = experiments.table_3, experiments.lc.curves, experiments.df
SIZES, LENET300 = experiments.byte_budget.curve, f"{experiments.lc.NETWORK} on MNIST"

#: Of which data set → name → what its rows are, and what says them, empty where none is there.
_COMMITTED: dict[str, dict[str, tuple[str, Said]]] = {
    "mnist": {
        "table-3": ("Table 3", _of(TABLE_3, _table_3)),
        "table-3-levels": ("Table 3", _of(TABLE_3, _levels)),
        "table-3-parts": ("Table 3", _of(TABLE_3, coders.file_parts_text)),
        "figure-2": ("Figure 2", _figure_2),
        "layers": ("Figure 3", _of(TABLE_3, admm.layers_text, most=1)),
        "meetings": ("how w and θ meet", _meetings),
        "curve": ("LC's figure of results", _of(CURVES, _curve)),
        "claims": ("LC's figure of results", lc.claims),
        "tenth": ("LC's figure of results", _of(CURVES, _tenth)),
        "least": ("LC's figure of results", _of(CURVES, lc.least)),
        "head-to-head": ("the head to head", comparison.head_to_head_text),
        "quantized": ("k-means at a fixed width", comparison.quantized_text),
        "trials": ("the trials of knobs", trials.knobs_text),
        "earned": ("what the allocation earns", comparison.weight_choices_text),
        "overlap": ("ADMM's allocation", comparison.overlap_text),
        "files": ("LeNet-5 in files of a size", _of(SIZES, byte_budget.files_text)),
        "coders": ("the coders", coders.coders_text),
        "counted": ("the counts", benchmarks.committed_counted),
    },
    "cifar10": {
        "table-4": ("Table 4", admm.table_4_text),
        "endings": ("ADMM's ends", trials.ends_text),
        "df-curve": ("DF's Table 3", _df(ROWS.curve, df.curve_text)),
        "df-parts": ("DF's Figure 4b", _df(df.hybrids, df.parts_text)),
        "df-schedule": ("DF's Table 1", _df(ROWS.schedule_rows, df.schedule)),
        "df-printed": ("DF nearer to the letter", _df(ROWS.as_printed, df.landings)),
        "df-binary": ("DF with binary masks", _df(ROWS.binary, _ordered("asked"))),
        "df-tried": ("DF's β and C", trials.grid_text),
        "df-schemes": ("DF's Figure 5", _df(ROWS.schemes, _ordered("scheme", "asked"))),
        "df-gain": ("where DF's gain comes from", _df(ROWS.gain, df.gain_text)),
        "df-both": ("both kinds of compression", _df(ROWS.twice, df.both)),
        "df-table-5": ("DF's Table 5", _df(ROWS.table_5, _ordered("asked"), lengths=("full",))),
        "df-table-5-beside": ("DF's Table 5", lambda: df.beside_text(df.table_5())),
        "speed": ("the ladder of speed", speed.speed_text),
    },
    "imagenet": {
        "table-2": ("Table 2", imagenet.table_2_text),
        "df-imagenet": ("DF's Tables 4 and 6", imagenet_df.beside_text),
    },
}

#: Name → what its rows are, of which data set, and what says them.
COMMITTED = {
    name: (what, dataset, said)
    for dataset, tables in _COMMITTED.items()
    for name, (what, said) in tables.items()
}


def committed(name: str) -> str:
    """What the committed runs say of ``name``, of :data:`COMMITTED`; one line where none is there.

    Raises ``ValueError`` for a name that is not known.
    """
    if name not in COMMITTED:
        raise ValueError(f"{name!r} is unknown: choose {', '.join(COMMITTED)}")
    what, dataset, said = COMMITTED[name]
    return said() or none(what, dataset)
