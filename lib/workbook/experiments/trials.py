"""ResNet-20's trials, on images held out of CIFAR-10's training split: ADMM's end, DF's β and C.

ADMM's learning rate falls to zero, W stops, U goes on growing, and the last quantization costs what
the loss never saw; training the codebooks afterwards brought most of it back. That was seen on test
images, so what to do about it is chosen here, on others: six ends of one recipe, from one dense
network, compared by the losses of the held-out images, paired image by image. What is there today
is the first of them. The best is tried against it on a second seed, from a dense network of its
own.

DF's are the paper's light grid (:func:`lib.workbook.experiments.df.trials`), from the same network.
"""

from lib.workbook.experiments import admm_table_4, df
from lib.workbook.experiments.recipes import admm, dense, then_tuned
from lib.workbook.experiments.spec import TRIALS, Entry, Experiment

DATASETS = ("cifar10",)

#: Epochs of the compression and of the training of its codebooks.
EPOCHS = {"compress": 20, "tune": 5}

#: The end → what it asks of ADMM, and of the training of the codebooks. V is held, and W averaged,
#: in the last quarter of the compression.
ENDS = {
    "today": ({}, {}),
    "fading dual steps": ({"fading": True}, {}),
    "V held": ({"hold_after": 15}, {}),
    "W averaged": ({"average_after": 15}, {}),
    "assignments tuned": ({}, {"reassign": True}),
    "fading, assignments tuned": ({"fading": True}, {"reassign": True}),
}

#: The end that is compared with today's on a second seed, once the six of seed 0 are done.
BEST: str | None = None


def ending(dataset: str, end: str) -> Experiment:
    """One of ``ENDS``."""
    compressing, tuning = ENDS[end]
    compressed = admm(
        dataset,
        network="resnet20",
        rate=35.4,
        start_bits=2,
        epochs=EPOCHS["compress"],
        growth=admm_table_4.growth(EPOCHS["compress"]),
        start=dense(dataset, network="resnet20", epochs=admm_table_4.CPU["trial"], held_out=True),
        **compressing,
    )
    return then_tuned(compressed, epochs=EPOCHS["tune"], **tuning)


def endings(dataset: str) -> dict[str, Experiment]:
    """End → its trial, today's first."""
    return {end: ending(dataset, end) for end in ENDS}


def entries(dataset: str) -> list[Entry]:
    """The dense network, the six ends, two of them on a second seed, and DF's nine."""
    tried = endings(dataset)
    twice = {"today", BEST} if BEST else {"today"}
    start = tried["today"].parent
    return [
        Entry(experiment=start, seeds=2, purpose="the start of trials", priority=TRIALS),
        *(
            Entry(
                experiment=experiment,
                seeds=2 if end in twice else 1,
                purpose="ADMM's end: a trial on held-out images",
                priority=TRIALS,
            )
            for end, experiment in tried.items()
        ),
        *(
            Entry(experiment=e, seeds=1, purpose="DF's β and C", priority=TRIALS)
            for e in df.trials(dataset, **df.cpu()).values()
        ),
    ]
