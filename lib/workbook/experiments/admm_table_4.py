"""Networks for CIFAR: dense baselines, and ADMM's Table 4."""

from collections.abc import Iterator

from lib.workbook.experiments.recipes import admm, admm_schedule, dense, growth, then_tuned
from lib.workbook.experiments.spec import FULL, Entry, Experiment, wanted

#: Our rows of Table 4, in the paper's order; on ``digits`` of a ResNet-8 at 16×16. In the rows that
#: rise, ρ rises twentyfold over the run, so that W meets V: with a constant ρ, ResNet-20's last
#: quantization lost 3 points after 24 epochs, and W itself before it a tenth to a half.
TABLE_4 = (
    {"network": "resnet20", "mode": "quantize", "rate": 16},
    {"network": "resnet20", "rate": 35.4, "start_bits": 2},
    {"network": "resnet20", "mode": "quantize", "rate": 16, "rises": True},
    {"network": "resnet20", "rate": 35.4, "start_bits": 2, "rises": True},
    {"network": "resnet50", "mode": "prune", "rate": 2},
    {"network": "resnet50", "rate": 462, "start_bits": 2},
    {"network": "resnet50", "rate": 565, "start_bits": 2},
    {"network": "resnet50", "rate": 836, "start_bits": 2},
)
TABLE_4_DIGITS = (
    {"network": "resnet8", "mode": "quantize", "rate": 16},
    {"network": "resnet8", "rate": 35.4, "start_bits": 2},
    {"network": "resnet8", "mode": "prune", "rate": 2},
    {"network": "resnet8", "rate": 100, "start_bits": 2},
)

#: Epochs of the dense network, and of the compression, in rows by a shorter schedule: what a CPU
#: finishes, or a GPU in half an hour.
SHORT = {"resnet20": 24, "resnet50": 60}

#: The schedule for a CPU, on CIFAR-10's own pixels: epochs of the dense network, of the compression
#: and of the training of its codebooks after it, and of the dense network that trials start from.
CPU = {"dense": 100, "compress": 40, "tune": 10, "trial": 40}

#: A row of Table 4: network, mode, rate, and whether ρ rises.
Key = tuple[str, str, float, bool]


def table_4(
    dataset: str, *, length: str = "full", epochs: int | None = None
) -> dict[Key, Experiment]:
    """Our rows of Table 4, in the paper's order, by one of three schedules.

    ``full`` is the paper's 120 epochs, or ``epochs``; ``short`` and ``cpu`` have some of the rows,
    and dense networks of their own. Raises ``ValueError`` for another, and for other than the full
    one on ``digits``, whose schedule is short already.
    """
    if length not in ("full", "short", "cpu"):
        raise ValueError(f"length = {length!r}: choose full, short or cpu")
    if dataset == "digits" and length != "full":
        raise ValueError("no shorter schedule on digits: choose cifar10-jpeg or cifar10")
    rows = TABLE_4_DIGITS if dataset == "digits" else TABLE_4
    if length == "short":
        rows = [row for row in rows if row["rate"] in (16, 35.4, 462, 836)]
    if length == "cpu":
        rows = [row for row in rows if row["network"] == "resnet20"]
    return {
        (row["network"], row.get("mode", "joint"), row["rate"], row.get("rises", False)): _row(
            dataset, length, epochs, **row
        )
        for row in rows
    }


def _row(
    dataset: str,
    length: str,
    epochs: int | None,
    *,
    network: str,
    rises: bool = False,
    **options,
) -> Experiment:
    dense_epochs = None
    if length == "short":
        epochs = dense_epochs = SHORT[network]
    if length == "cpu":
        epochs, dense_epochs = CPU["compress"], CPU["dense"]
    if rises:
        options["growth"] = growth(20, admm_schedule(dataset, network, epochs).epochs)
    row = admm(dataset, network=network, epochs=epochs, dense_epochs=dense_epochs, **options)
    return then_tuned(row, epochs=CPU["tune"]) if length == "cpu" else row


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted of these networks on a data set."""
    rows = list(table_4(dataset).values())
    if dataset == "digits":
        yield from wanted(rows, "ADMM Table 4", 2)
        return
    gpu = dataset == "cifar10"
    yield from wanted(rows[:4], "ADMM Table 4", FULL if gpu else 1, 3)
    plain = [dense(dataset, network=network) for network in ("resnet56", "vgg16")]
    yield from wanted(plain, "dense baseline", FULL if gpu else 2)
    if gpu:
        yield from wanted(rows[4:], "ADMM Table 4", FULL)
        return
    short = list(table_4(dataset, length="short").values())
    yield from wanted(short[4:], "ADMM Table 4", 2)
    yield from wanted(rows[4:] + short[:4], "ADMM Table 4", 3)
