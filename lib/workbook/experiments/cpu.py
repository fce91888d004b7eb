"""CIFAR-10 by a schedule for a CPU: what two cores train, in the order in which it is wanted.

The dense network has 100 epochs, half of those of the full schedule. What follows has 50, 40 + 10
or 5 + 45, where the papers give 120 (ADMM) and 100 of training on (DF).
"""

from collections.abc import Iterator

from lib.workbook.experiments import df
from lib.workbook.experiments.admm_table_4 import table_4
from lib.workbook.experiments.spec import Entry, Experiment

DATASETS = ("cifar10",)

#: Of Figure 3a, 4 and 5 and Table 3, and of Table 1: shares of the MACs that go.
REDUCTIONS = (0.5, 0.6, 0.75)
TABLE_1 = (0.5, 0.6, 0.7)


def entries(dataset: str) -> list[Entry]:
    """The rows with what they need, the most wanted first.

    Priority 1 is seed 0 of the first rows and 2 their seeds 1 and 2; 3, 5 and 6 are seed 0 alone.
    """
    rows = table_4(dataset, length="cpu")
    rising, constant = (
        [row for (*_, rises), row in rows.items() if rises is wanted] for wanted in (True, False)
    )
    first = [*rising, _df(dataset, 0.5)]
    starts = dict.fromkeys(row.parent for row in first)
    controls = dict.fromkeys(row.control for row in first)
    thrice = [
        *((start, "the start of the rows for a CPU") for start in starts),
        *((row, "ADMM Table 4") for row in rising),
        (first[-1], "DF Table 3, Figures 3a and 4"),
        *((control, "control of the rows for a CPU") for control in controls),
    ]
    found = [
        Entry(experiment=e, seeds=3, purpose=purpose, priority=1, later_priority=2)
        for e, purpose in thrice
    ]
    once = [*((row, "ADMM Table 4, the paper's ρ", 1) for row in constant), *_once(dataset)]
    return found + [
        Entry(experiment=e, seeds=1, purpose=purpose, priority=priority)
        for e, purpose, priority in once
    ]


def _once(dataset: str) -> Iterator[tuple[Experiment, str, int]]:
    figures = "DF Table 3, Figures 3a and 4"
    yield from ((_df(dataset, reduction), figures, 3) for reduction in REDUCTIONS[1:])
    for mode in ("filters", "ranks"):
        yield from ((_df(dataset, r, mode=mode), figures, 3) for r in REDUCTIONS)

    paper = _df(dataset, 0.5, network="resnet56")
    yield paper.parent, "the paper's own network, for a CPU", 5
    yield paper.control, "control of the paper's own network, for a CPU", 5
    yield paper, "DF Table 3 on the paper's own network, for a CPU", 5

    for reduction in TABLE_1:
        for options in ({}, {"beta": 0}):
            yield _df(dataset, reduction, mode="filters", **options), "DF Table 1", 6
    yield from ((_df(dataset, r, scheme=2), "DF Figure 5", 6) for r in REDUCTIONS)
    yield _df(dataset, 0.6, printed=True), "DF nearer to the letter", 6
    place = {"reduction": 0.6, **df.cpu()}
    for name in df.BASELINES:
        yield df.baseline(dataset, name=name, **place), figures, 6
    yield df.lc_ranks(dataset, **place), figures, 6
    yield df.scratch(_df(dataset, 0.6)), "where DF's gain comes from", 6

    # what the notebooks show besides
    for row in df.binary(dataset, **df.cpu()).values():
        yield row, "DF with binary masks", 6
    weak = df.gain(dataset, **df.cpu())["weak"]
    both = df.twice(dataset, **df.cpu())["both"]
    for row, purpose in ((weak, "where DF's gain comes from"), (both, "both kinds at once")):
        if row.parent.control is None:  # a dense network
            yield row.parent, f"{purpose}: start", 6
        yield row.control, f"{purpose}: control", 6
        yield row, purpose, 6


def _df(dataset: str, reduction: float, **options) -> Experiment:
    return df.df(dataset, reduction=reduction, **df.cpu() | options)
