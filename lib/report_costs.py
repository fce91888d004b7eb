"""What the ImageNet runs cost: operations, hours, images that must be read, memory."""

import tempfile
import time
from collections.abc import Sequence
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
from lib.experiments import Entry, Experiment, structured

#: The mean picture of ImageNet: Deng et al., "ImageNet: A Large-Scale Hierarchical Image Database"
#: (CVPR 2009), in pixels. And of ILSVRC2012's archive of training pictures the bytes.
PICTURE, ARCHIVE_BYTES = (400, 350), 147_897_477_120

#: How large a picture's noise is, in grey levels, and its quality: the file is then about as large
#: as ImageNet's mean one, which is what decoding takes most of its time for.
NOISE, QUALITY = 25, 95

#: A training step computes forward once, and backward twice: for the inputs and for the weights.
FORWARD, BACKWARD = 1, 2


def work(experiment: Experiment) -> dict[str, float]:
    """What a run on ImageNet has to do, its parent and control left out.

    ``epochs``; ``steps`` of training; ``read``, how many images are decoded: those of training, the
    validation split after every epoch, and the passes at the end of a run (the loss on both splits,
    the predictions; BatchNorm's statistics of each stage that compresses); ``operations``, floating
    point, two a MAC: forward and backward for what is trained on, forward for the others.
    DF's network is trained on with the MACs of its budget; the thresholding is not counted, nor are
    projections and whatever is no MAC.
    """
    form = FORMS[experiment.dataset]
    dense = structured.dense_macs(experiment.dataset, experiment.network)
    small = experiment.budget if experiment.budget_in == "macs" else None
    steps = trained = read = operations = 0
    left = dense
    for stage in experiment.stages:
        images, checked = stage.epochs * form.train, stage.epochs * form.val
        if stage.method != "sgd":
            checked += form.train
        operations += 2 * left * ((FORWARD + BACKWARD) * images + FORWARD * checked)
        steps += stage.epochs * -(-form.train // stage.schedule.batch)
        trained, read = trained + images, read + images + checked
        if stage.method != "sgd" and small is not None:
            left = small
    last = form.train + 2 * form.val
    return {
        "epochs": experiment.epochs,
        "steps": steps,
        "trained": trained,
        "read": read + last,
        "operations": operations + 2 * left * FORWARD * last,
    }


def rows(entries: Sequence[Entry]) -> pd.DataFrame:
    """:func:`work` of a catalogue's entries, a row each, with what it is and what it is for."""
    return pd.DataFrame(
        [
            {
                "run": entry.experiment.slug,
                "purpose": entry.purpose,
                "network": entry.experiment.network,
                "seeds": entry.seeds,
                **work(entry.experiment),
            }
            for entry in entries
        ]
    )


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
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}

    def kept(batch: int) -> int:
        found = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage
            return tensor

        images = torch.zeros(batch, *input_shape, device="meta")
        labels = torch.zeros(batch, dtype=torch.int64, device="meta")
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = functional.cross_entropy(model(images), labels)
        del loss
        return sum(storage.nbytes() for key, storage in found.items() if key not in own)

    # what is kept once for a whole batch cancels
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
        seconds = [_pass(split, seed) for seed in range(1 + passes)][1:]  # the first one imports
    taken = min(seconds) / pictures
    return {"milliseconds": 1000 * taken, "images_a_second": 1 / taken, "bytes": float(size)}


def _pass(split: Streamed, seed: int) -> float:
    began = time.process_time()
    for _ in split.steps(torch.arange(len(split)), batch=len(split), seed=seed):
        pass
    return time.process_time() - began


def _picture(random: np.random.Generator) -> Image.Image:
    """Smooth colours under noise."""
    width, height = PICTURE
    coarse = random.uniform(0, 255, (height // 50, width // 50, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth) + random.normal(0, NOISE, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
