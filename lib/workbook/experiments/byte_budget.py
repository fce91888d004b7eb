"""LeNet-5 as a file of so many bytes: the curve of a file's size against its error."""

from dataclasses import replace

from lib.workbook.experiments.recipes import admm_schedule, dense
from lib.workbook.experiments.spec import Entry, Experiment, Stage

DATASETS = ("mnist", "digits")

#: Bytes of the file, the most wanted first. MIRACLE's two (Havasi, Peharz and Hernández-Lobato,
#: ICLR 2019, Table 1) are 3.03 kB at 0.69 % error and 1.52 kB at 0.96 %.
SIZES = {"mnist": (3_000, 1_500, 2_000, 5_000, 10_000, 1_000), "digits": (5_000, 3_000)}

#: Of these three seeds are run, of the others one.
THRICE = (3_000, 1_500)

#: Epochs of compression, and of training what is left.
EPOCHS = {"mnist": (60, 10), "digits": (16, 4)}

#: Pixels by which images are shifted at random, here alone. Ours, as are 2 bits at the start; no
#: trial of either is in the catalogue.
SHIFT = 1

#: ρ rises twentyfold over the run.
RHO = {"mnist": 0.01, "digits": 0.05}
RISE = 20


def start(dataset: str) -> Experiment:
    """The dense LeNet-5, trained on shifted images."""
    plain = dense(dataset)
    (stage,) = plain.stages
    shifted = replace(stage, schedule=replace(stage.schedule, crop=SHIFT))
    return replace(plain, slug=f"{plain.slug}-shifted", stages=(shifted,))


def file(dataset: str, size: int) -> Experiment:
    """LeNet-5 in at most ``size`` bytes: ADMM at the file's costs, tuned, rounded to fit."""
    epochs, tuning = EPOCHS[dataset]
    schedule = replace(admm_schedule(dataset, epochs=epochs), crop=SHIFT)
    slower = replace(schedule, epochs=tuning, warmup=0, lr=schedule.lr / 10)
    described = {"network": "lenet5", "classes": 10, "channels": 1, "file_bytes": size}
    options = described | {
        "input_shape": (1, 28, 28),
        "rho": RHO[dataset],
        "growth": round(RISE ** (1 / epochs), 4),
        "start_bits": 2,
    }
    return Experiment(
        slug=f"lenet5-{dataset}-file-{size}B-{epochs}+{tuning}ep",
        dataset=dataset,
        network="lenet5",
        stages=(
            Stage(method="admm-file", schedule=schedule, options=tuple(sorted(options.items()))),
            Stage(method="tune-codebooks", schedule=slower),
            Stage(
                method="fit-file",
                schedule=replace(slower, epochs=0),
                options=tuple(sorted(described.items())),
            ),
        ),
        parent=start(dataset),
        mode="file",
        budget=size,
        budget_in="bytes",
    )


def curve(dataset: str) -> dict[int, Experiment]:
    """Bytes → the run."""
    return {size: file(dataset, size) for size in sorted(SIZES[dataset])}


def entries(dataset: str) -> list[Entry]:
    """What the catalogue holds of files of a size."""
    found = []
    for size in SIZES[dataset]:
        run = file(dataset, size)
        seeds = 3 if dataset == "mnist" and size in THRICE else 1
        for one, purpose in (
            (run.parent, "files: the start"),
            (run.control, "files: control"),
            (run, "a file of a size"),
        ):
            priority = 1 if size in THRICE else 2
            found.append(Entry(experiment=one, seeds=seeds, purpose=purpose, priority=priority))
    return found
