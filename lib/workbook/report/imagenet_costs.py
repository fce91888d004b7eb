"""What the ImageNet runs cost: operations, hours, images that must be read, memory."""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lib import networks
from lib.data.imagenet import FORMS
from lib.data.streamed import Streamed
from lib.workbook import benchmarks, experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report import imagenet

#: The mean picture of ImageNet: Deng et al., "ImageNet: A Large-Scale Hierarchical Image Database"
#: (CVPR 2009), in pixels. And of ILSVRC2012's archive of training pictures the bytes.
PICTURE, ARCHIVE_BYTES = (400, 350), 147_897_477_120

#: How large a picture's noise is, in grey levels, and its quality: the file is then about as large
#: as ImageNet's mean one, which is what decoding takes most of its time for.
NOISE, QUALITY = 25, 95

#: A training step computes forward once, and backward twice: for the inputs and for the weights.
FORWARD, BACKWARD = 1, 2


def work(experiment: Experiment) -> dict[str, int]:
    """What a run on ImageNet has to do, its parent and control left out.

    ``epochs``; ``steps`` of training; ``read``, how many images are decoded: those of training, the
    validation split after every epoch, and the passes at the end of a run (the loss on both splits,
    the predictions; BatchNorm's statistics of each stage that compresses); ``operations``, floating
    point, two a MAC: forward and backward for what is trained on, forward for the others.
    DF's network is trained on with the MACs of its budget; the thresholding is not counted, nor are
    projections and whatever is no MAC.
    """
    form = FORMS[experiment.dataset]
    left = experiments.df.dense_macs(experiment.dataset, experiment.network)
    steps = trained = read = operations = 0
    for stage in experiment.stages:
        images, checked = stage.epochs * form.train, stage.epochs * form.val
        if stage.method != "sgd":
            checked += form.train
        operations += 2 * left * ((FORWARD + BACKWARD) * images + FORWARD * checked)
        steps += stage.epochs * -(-form.train // stage.schedule.batch)
        trained, read = trained + images, read + images + checked
        if stage.method != "sgd" and experiment.budget_in == "macs":
            left = experiment.budget
    last = form.train + 2 * form.val
    return {
        "epochs": experiment.epochs,
        "steps": steps,
        "trained": trained,
        "read": read + last,
        "operations": operations + 2 * left * FORWARD * last,
    }


#: Table → its rows in the catalogue.
TABLES = {
    "ADMM Table 2": lambda: experiments.imagenet.table_2("imagenet"),
    "DF Table 4": lambda: imagenet.hybrids("resnet50-imagenet"),
    "DF Table 6": lambda: imagenet.hybrids("resnet18-imagenet", "mobilenetv2"),
    "DF Figure 3b": lambda: experiments.imagenet.figure_3b("imagenet").values(),
}

#: What a run is to its table: a row, or what a row starts from or is compared with.
PARTS = ("rows", "starts and controls")


def runs() -> pd.DataFrame:
    """:func:`work` of every run that the tables need, each once, where it is needed first.

    ``table`` and ``part`` (of ``PARTS``) say what for; ``less`` is the share (%) of its MACs that
    a row of DF is to lose, NaN of the others; ``experiment`` is the run's.
    """
    found: dict[str, dict] = {}
    for table, rows in TABLES.items():
        wanted = rows()
        names = {row.name for row in wanted}
        for each in imagenet.needed(wanted):
            part = PARTS[each.name not in names]
            known = {"table": table, "part": part, "network": each.network, "less": _less(each)}
            found.setdefault(each.name, known | {"experiment": each} | work(each))
    # the sum of all operations is no int64
    return pd.DataFrame(found.values()).astype({"operations": float, "read": float})


def _less(experiment: Experiment) -> float:
    if experiment.budget_in != "macs":
        return math.nan
    dense = experiments.df.dense_macs(experiment.dataset, experiment.network)
    return round(100 * (1 - experiment.budget / dense))


def table(made: pd.DataFrame) -> pd.DataFrame:
    """:func:`runs` in groups that cost the same: hours of one run, and how many ``runs`` there are.

    Of one table, part, network, length and share of MACs; of columns that end in ``_hours``.
    """
    hours = [name for name in made if name.endswith("_hours")]
    parts = ["table", "part", "network", "epochs", "less"]
    groups = made.groupby(parts, sort=False, dropna=False)
    return groups[hours].mean().assign(runs=groups.size()).reset_index()


def floor_hours(made: pd.DataFrame, *, tflops: float, utilisation: float) -> pd.Series:
    """Hours of each of :func:`runs` on a device that computes ``utilisation`` of its ``tflops``.

    An estimate by operations alone. Raises ``ValueError`` for a device that computes nothing.
    """
    if not tflops > 0 or not 0 < utilisation <= 1:
        raise ValueError(
            f"tflops = {tflops}, utilisation = {utilisation}: the first must be positive, the "
            "second above 0 and at most 1"
        )
    return made["operations"] / (tflops * 1e12 * utilisation) / 3600


# ---------------------------------------------------------------------------------- measured steps

#: What the catalogue calls a network that the table of measured steps calls otherwise.
RENAMED = {"resnet50": "resnet50-imagenet"}

#: Of a network whose step was not measured, the one whose seconds a MAC are taken.
LIKE = {
    "resnet18-imagenet": "resnet50-imagenet",
    "mobilenetv1": "mobilenetv2",
    "mnasnet": "mobilenetv2",
    "proxylessnas-mobile": "mobilenetv2",
}

#: What a stage's method is called in the table of measured steps; others take a plain step.
METHODS = {"admm": "ADMM", "df": "DF"}


def measured_steps() -> pd.DataFrame | None:
    """The training steps that were measured on a GPU at full size, or None where none was.

    ``seconds`` is a step's over its images; ``network``, ``method``, and what it ran on, are as
    the notebook of training steps saved them.
    """
    steps = benchmarks.committed("training-steps")
    steps = steps[steps["device"] != "cpu"] if len(steps) else steps
    if steps.empty:
        return None
    steps = steps[steps["side"] == FORMS["imagenet"].crop].replace({"network": RENAMED})
    return steps.assign(seconds=steps["step (s)"] / steps["batch"]).reset_index(drop=True)


def measured_hours(made: pd.DataFrame, steps: pd.DataFrame) -> pd.Series:
    """Hours of each of :func:`runs` by measured training steps, of one device.

    ``steps`` has a row a network and method: ``network`` (as the catalogue names it), ``method``
    (plain, ADMM, DF) and ``seconds``, a step's over its images. Passes forward alone take a third;
    a network that was built takes as long as the dense one: its step is not measured. Networks
    that were not measured either: ``LIKE``, by their MACs. NaN where neither was.
    """
    known = steps.set_index(["network", "method"])["seconds"]

    def of_image(network: str, method: str) -> float:
        like = network if (network, "plain") in known else LIKE.get(network, network)
        seconds = known.get((like, method), known.get((like, "plain"), math.nan))
        macs = (experiments.df.dense_macs("imagenet", each) for each in (network, like))
        return seconds * next(macs) / next(macs)

    def of_run(row: pd.Series) -> float:
        trained = sum(
            stage.epochs * of_image(row["network"], METHODS.get(stage.method, "plain"))
            for stage in row["experiment"].stages
        )
        forward = (row["read"] - row["trained"]) * of_image(row["network"], "plain") / 3
        return (trained * FORMS["imagenet"].train + forward) / 3600

    return made.apply(of_run, axis=1)


# ----------------------------------------------------------------------------------------- memory


def kept_for_backward(
    name: str, *, classes: int = 1_000, input_shape: tuple[int, ...] = (3, 224, 224)
) -> int:
    """Bytes that one image leaves in memory from its forward to its backward pass, in float32.

    Counted: the storages that autograd keeps, each once, parameters left out. In bfloat16 they are
    about half. Nothing is computed, and what the kernels of a device want beside is not known here.
    """
    with torch.device("meta"):
        model = networks.build(name, classes=classes).train()

    def kept(batch: int) -> int:
        found = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
            return tensor

        images = torch.zeros(batch, *input_shape, device="meta")
        labels = torch.zeros(batch, dtype=torch.int64, device="meta")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            functional.cross_entropy(model(images), labels)
        return sum(found.values())

    # what is kept once for a whole batch cancels, such as parameters
    return (kept(4) - kept(2)) // 2


# ---------------------------------------------------------------------------------------- reading


def reading(*, pictures: int = 60, passes: int = 5) -> dict[str, float]:
    """How long a core takes to read an image for training, as :class:`Streamed` reads it.

    ``pictures`` generated ones of ImageNet's mean size, in files about as large as its mean one,
    are decoded, cut and mirrored ``passes`` times: ``milliseconds`` is the fastest one's, of
    processor time an image, ``images_a_second`` its inverse, ``bytes`` the mean file. Disks are not
    measured: the files have just been written.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, names = Path(folder), [f"{i}.JPEG" for i in range(pictures)]
        for i, name in enumerate(names):
            _picture(np.random.default_rng(i)).save(root / name, quality=QUALITY)
        size = np.mean([(root / name).stat().st_size for name in names])
        form = FORMS["imagenet"]
        labels = torch.zeros(pictures, dtype=torch.int64)
        files = np.array([name.encode() for name in names])
        split = Streamed(root, files, labels, form.resize, form.crop)
        times = []
        for seed in range(1 + passes):  # the first one imports
            began = time.process_time()
            list(split.steps(torch.arange(pictures), batch=pictures, seed=seed))
            times.append((time.process_time() - began) / pictures)
    taken = min(times[1:])
    return {"milliseconds": 1000 * taken, "images_a_second": 1 / taken, "bytes": float(size)}


def _picture(random: np.random.Generator) -> Image.Image:
    """Smooth colours under noise."""
    width, height = PICTURE
    coarse = random.uniform(0, 255, (height // 50, width // 50, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth) + random.normal(0, NOISE, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
