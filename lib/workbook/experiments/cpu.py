"""CIFAR-10 by a schedule for a CPU: what two cores train, in the order in which it is wanted.

The dense network has 100 epochs, half of those of the full schedule. What follows has 50, 40 + 10
or 5 + 45, where the papers give 120 (ADMM) and 100 of training on (DF).
"""

from collections.abc import Iterator

from lib.workbook.experiments import df
from lib.workbook.experiments.admm_table_4 import table_4
from lib.workbook.experiments.spec import Entry, wanted


def entries(dataset: str) -> Iterator[Entry]:
    """The rows, the most wanted first.

    Priority 1 is seed 0 of the first rows and 2 their seeds 1 and 2; 3, 5 and 6 are seed 0 alone.
    """
    place, figures = df.cpu(), "DF Table 3, Figures 3a and 4"
    rows = table_4(dataset, length="cpu")
    curve = df.curve(dataset, **place)
    first = [(row, "ADMM Table 4") for (*_, rises), row in rows.items() if rises]
    for row, purpose in [*first, (curve["hybrid", 0.5], figures)]:
        yield Entry(row, purpose, 1, seeds=3, later_priority=2)
    constant = [row for (*_, rises), row in rows.items() if not rises]
    yield from wanted(constant, "ADMM Table 4, the paper's ρ", 1)
    for mode in df.HALVES:
        yield from wanted([row for (name, _), row in curve.items() if name == mode], figures, 3)

    paper = df.df(dataset, reduction=0.5, network="resnet56", length="cpu")
    yield Entry(paper, "DF Table 3 on the paper's own network, for a CPU", 5)

    # what the notebooks show besides
    gain = df.gain(dataset, **place)
    others = [row for (name, _), row in curve.items() if name not in df.HALVES]
    for found, purpose in (
        (df.schedule_rows(dataset, **place).values(), "DF Table 1"),
        (df.schemes(dataset, **place).values(), "DF Figure 5"),
        (df.as_printed(dataset, **place).values(), "DF nearer to the letter"),
        (others, figures),
        ([gain["from-scratch"]], "where DF's gain comes from"),
        (df.binary(dataset, **place).values(), "DF with binary masks"),
        ([gain["weak"]], "where DF's gain comes from"),
        (df.twice(dataset, **place).values(), "both kinds of compression at once"),
    ):
        yield from wanted(found, purpose, 6)
