"""ResNet-20's trials, on images held out of CIFAR-10's training split: ADMM's end, DF's β and C.

ADMM's learning rate falls to zero, W stops, U goes on growing, and the last quantization costs what
the loss never saw; training the codebooks afterwards brought most of it back. That was seen on test
images, so what to do about it is chosen here, on others: six ends of one recipe, from one dense
network, compared by the losses of the held-out images, paired image by image. Today's end
is the first of them. The best is tried against it on a second seed, from a dense network of its
own.

DF's are the paper's light grid (:func:`lib.workbook.experiments.df.trials`), from the same network.
"""

from collections.abc import Iterator

from lib.workbook.experiments import admm_table_4, df
from lib.workbook.experiments.recipes import admm, dense, growth, then_tuned
from lib.workbook.experiments.spec import TRIALS, Entry, Experiment, wanted

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

#: The ends on a second seed: today's, and once the six of seed 0 are done the best of them.
TWO_SEEDS = ("today",)


def endings(dataset: str) -> dict[str, Experiment]:
    """End → its trial, today's first."""
    epochs = EPOCHS["compress"]
    start = dense(dataset, network="resnet20", epochs=admm_table_4.CPU["trial"], held_out=True)
    usual = {"network": "resnet20", "rate": 35.4, "start_bits": 2, "growth": growth(20, epochs)}
    return {
        end: then_tuned(
            admm(dataset, epochs=epochs, start=start, **usual, **compressing),
            epochs=EPOCHS["tune"],
            **tuning,
        )
        for end, (compressing, tuning) in ENDS.items()
    }


def entries(dataset: str) -> Iterator[Entry]:
    """The six ends, today's on a second seed too, and DF's nine."""
    for end, row in endings(dataset).items():
        seeds = 2 if end in TWO_SEEDS else 1
        yield Entry(row, "ADMM's end: a trial on held-out images", TRIALS, seeds)
    yield from wanted(df.trials(dataset, **df.cpu()).values(), "DF's β and C", TRIALS)
