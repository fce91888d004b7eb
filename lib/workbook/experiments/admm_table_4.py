"""Networks for CIFAR: dense baselines, and ADMM's Table 4."""

from collections.abc import Iterator

from lib.workbook.experiments.recipes import admm, dense, then_tuned
from lib.workbook.experiments.spec import FULL, Entry, Experiment

DATASETS = ("cifar10-jpeg", "cifar10", "digits")

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
        return {_key(row): _short(dataset, **row) for row in rows}
    if length == "cpu":
        rows = [row for row in rows if row["network"] == "resnet20"]
        return {_key(row): _for_cpu(dataset, **row) for row in rows}
    return {_key(row): _row(dataset, epochs=epochs, **row) for row in rows}


def _key(row: dict) -> Key:
    return row["network"], row.get("mode", "joint"), row["rate"], row.get("rises", False)


def _for_cpu(dataset: str, **row) -> Experiment:
    compressed = _row(dataset, epochs=CPU["compress"], dense_epochs=CPU["dense"], **row)
    return then_tuned(compressed, epochs=CPU["tune"])


def _short(dataset: str, *, network: str, **row) -> Experiment:
    epochs = SHORT[network]
    return _row(dataset, network=network, epochs=epochs, dense_epochs=epochs, **row)


def _row(dataset: str, *, rises: bool = False, **row) -> Experiment:
    experiment = admm(dataset, **row)
    return admm(dataset, growth=growth(experiment.epochs), **row) if rises else experiment


def growth(epochs: int) -> float:
    """What multiplies ρ after each epoch for it to rise twentyfold: growth^epochs = 20."""
    return round(20 ** (1 / epochs), 3)


def entries(dataset: str) -> list[Entry]:
    """What the catalogue holds of these networks on a data set."""
    gpu = dataset == "cifar10"
    return [
        Entry(experiment=experiment, seeds=seeds, purpose=purpose, priority=priority, gpu=gpu)
        for experiment, seeds, purpose, priority in _entries(dataset)
    ]


def _entries(dataset: str) -> Iterator[tuple[Experiment, int, str, int]]:
    rows = list(table_4(dataset).values())
    if dataset == "digits":
        yield from _with_starts(rows, 1, 2)
        return
    if dataset == "cifar10":
        yield from _with_starts(rows[:4], 3, FULL)
        for network in ("resnet56", "vgg16"):
            yield dense(dataset, network=network), 1, "dense baseline", FULL
        yield from _with_starts(rows[4:], 1, FULL)
        return
    short = list(table_4(dataset, length="short").values())
    yield from _with_starts(rows[:4], 3, 1)
    for network in ("resnet56", "vgg16"):
        yield dense(dataset, network=network), 1, "dense baseline", 2
    yield from _with_starts(short[4:], 1, 2)
    yield from _with_starts(rows[4:], 1, 3)
    yield from _with_starts(short[:4], 1, 3)


def _with_starts(
    rows: list[Experiment], seeds: int, priority: int
) -> Iterator[tuple[Experiment, int, str, int]]:
    """The rows, before them what they start from and the same trained on."""
    for parent in dict.fromkeys(row.parent for row in rows):
        yield parent, seeds, "the start of Table 4's rows", priority
    for control in dict.fromkeys(row.control for row in rows):
        yield control, seeds, "control of Table 4", priority
    for row in rows:
        yield row, seeds, "ADMM Table 4", priority
