"""LeNet-5: ADMM's Table 3 and Figures 2 and 3."""

from collections.abc import Iterator

from lib.workbook.experiments.recipes import admm, tuned
from lib.workbook.experiments.spec import Entry, Experiment, wanted

#: LeNet-5's compressible weights.
LENET5_WEIGHTS = 430_500

#: The ρ of the paper's Figure 2, and beyond both ends, where the method fails.
FIGURE_2_RHOS = (0.01, 0.05, 0.1, 0.5)
EXTREME_RHOS = (0.0005, 10.0)

#: A third of MNIST's schedule shows what the figure is about; the paper trains for all of it.
FIGURE_2_EPOCHS = {"mnist": 40, "digits": 20}
FIGURE_2_WHOLE = 120

#: Projections and dual steps per epoch besides the paper's one: τ' of ½ and ¼ epoch.
PERIODS = (2, 4)

#: A ρ that rises twentyfold over the run, by this factor an epoch: a small one lets W learn, a
#: large one makes it meet V. Ours; the paper's is constant. No trial of it on LeNet-5 is in the
#: catalogue.
RISING = {"rho": 0.01, "growth": 1.025}

#: The same over the epochs of Figure 2; ``digits`` with its fewer, smaller steps need larger ones.
RISING_CURVE = {"mnist": {"rho": 0.01, "growth": 1.08}, "digits": {"rho": 0.05, "growth": 1.17}}

#: Our rows of Table 3: the rate, options of ADMM, and for how many epochs the codebooks are tuned
#: afterwards. The first row of MNIST has the authors' recipe, 3 bits at the start, ρ of 0.05 and no
#: tuning; their command asks for 1,975×. Rows from 1 bit are ours; no trial of that start, on this
#: network, is in the catalogue. The last quantization sends small weights to zero, so a rate is
#: exceeded: 2,000 asked for gave 2,400 with a rising ρ, hence the rows that ask for 1,700. On
#: ``digits``, a fortieth of MNIST's images, the table is at lower rates.
TABLE_3 = {
    "mnist": tuple(
        row | tuning
        for row in (
            {"rate": 2_000},
            {"rate": 2_000, "start_bits": 2},
            {"rate": 2_000, "start_bits": 1},
            {"rate": 1_700, "start_bits": 1} | RISING,
            {"rate": 2_000, "start_bits": 1} | RISING,
            {"rate": 3_000, "start_bits": 1} | RISING,
        )
        for tuning in ({}, {"tune": 20})
    ),
    "digits": ({"rate": 200}, {"rate": 500, "start_bits": 1}),
}


def table_3(dataset: str, *, epochs: int | None = None) -> list[Experiment]:
    """Our rows of Table 3."""
    return [_row(dataset, epochs, **row) for row in TABLE_3[dataset]]


def _row(dataset: str, epochs: int | None, *, tune: int = 0, **options) -> Experiment:
    compressed = admm(dataset, epochs=epochs, **options)
    return tuned(compressed, epochs=tune) if tune else compressed


def figure_2(dataset: str, *, epochs: int | None = None) -> dict[float, Experiment]:
    """ρ → the run of Figure 2's curves, the paper's four and one beyond each end."""
    rhos = sorted(FIGURE_2_RHOS + EXTREME_RHOS)
    return {rho: _curve(dataset, epochs, rho=rho) for rho in rhos}


def tau(dataset: str, *, epochs: int | None = None) -> dict[int, Experiment]:
    """Projections an epoch → the run at ρ = 0.05; one an epoch is Figure 2's own."""
    return {n: _curve(dataset, epochs, periods_per_epoch=n) for n in (1, *PERIODS)}


def endings(dataset: str, *, epochs: int | None = None) -> dict[str, Experiment]:
    """End → Figure 2's run with a ρ that rises, ended in four ways, as it is first.

    V is held, and W averaged, in the last quarter of the run.
    """
    last = 3 * (epochs or FIGURE_2_EPOCHS[dataset]) // 4
    ends = {
        "as it is": {},
        "fading dual steps": {"fading": True},
        "V held": {"hold_after": last},
        "W averaged": {"average_after": last},
    }
    return {
        name: _curve(dataset, epochs, **RISING_CURVE[dataset], **options)
        for name, options in ends.items()
    }


def _curve(dataset: str, epochs: int | None, **options) -> Experiment:
    """A run at Table 3's first rate whose losses are traced."""
    epochs = epochs or FIGURE_2_EPOCHS[dataset]
    return admm(dataset, rate=TABLE_3[dataset][0]["rate"], epochs=epochs, trace=True, **options)


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted of LeNet-5 on a data set."""
    seeds = 3 if dataset == "mnist" else 2
    yield from wanted(table_3(dataset), "ADMM Table 3, Figure 3", 1, seeds)
    curves = figure_2(dataset)
    yield from (
        Entry(curve, "ADMM Figure 2", 2 if rho in FIGURE_2_RHOS else 3)
        for rho, curve in curves.items()
    )
    yield from wanted(endings(dataset).values(), "a rising ρ and ADMM's end", 2)
    yield from wanted(tau(dataset).values(), "ADMM's τ', notebook 11", 3)
    if dataset == "mnist":
        whole = figure_2(dataset, epochs=FIGURE_2_WHOLE)
        four = [whole[rho] for rho in FIGURE_2_RHOS]
        yield from wanted(four, "ADMM Figure 2, all epochs", 3)
