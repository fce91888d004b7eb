"""DF's Tables 4 and 6 and Figure 3b in numbers, and where an ImageNet network's MACs can go."""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import torch

from lib import networks, structured
from lib.data.imagenet import FORMS
from lib.workbook import experiments
from lib.workbook.report import df, imagenet
from lib.workbook.report.columns import columns
from lib.workbook.report.rows import finished
from lib.workbook.runs import Run

#: The paper's networks: the table that each stands in, and its name here.
TABLES = {
    "resnet50": ("df_table4", "resnet50-imagenet"),
    "resnet18": ("df_table6", "resnet18-imagenet"),
    "mobilenetv2": ("df_table6", "mobilenetv2"),
}

#: Their titles.
TITLES = {"resnet50": "ResNet-50", "resnet18": "ResNet-18", "mobilenetv2": "MobileNetV2"}

#: ImageNet's images, as the networks read them, and its classes.
SHAPE = (3, FORMS["imagenet"].crop, FORMS["imagenet"].crop)
CLASSES = FORMS["imagenet"].classes


def reported(network: str) -> pd.DataFrame:
    """The paper's rows of a network on ImageNet, in its order, with ``gain`` worked out anew."""
    return df.reported(TABLES[network][0], network=network, dataset="imagenet")


def _printed_delta(paper: pd.DataFrame) -> pd.Series:
    """Δ as the paper prints it, ``*`` where it is not accuracy − dense."""
    marks = ((paper["delta"] - paper["gain"]).abs() > 0.005).map({True: "*", False: ""})
    return paper["delta"].map("{:+.2f}".format, na_action="ignore") + marks


#: :func:`reported` as it is read. The paper's FLOPs are multiply-accumulates.
TABLE = columns(
    "kind algorithm baseline_accuracy accuracy delta gain gflops reduction_percent parameters_m "
    "parameter_reduction_percent",
    baseline_accuracy=("dense, %", "{:.2f}"),
    delta=("Δ as printed", "{}", _printed_delta),
    gain=("accuracy − dense", "{:+.2f}"),
    gflops=("10⁹ MACs", "{:g}"),
    reduction_percent=("MACs less, %", "{:.0f}"),
    parameters_m=("10⁶ parameters", "{:g}"),
    parameter_reduction_percent=("parameters less, %", "{:.0f}"),
)


def best_of_others(paper: pd.DataFrame) -> pd.DataFrame:
    """Each row of DF against the best of the others that save as much, or more.

    ``reduction`` (%), ``accuracy`` (%) and ``gain`` (points) of DF's row; ``others_accuracy`` and
    ``others_gain`` are the largest of theirs, NaN where nobody states one.
    """
    own = paper["algorithm"] == "DF"
    rows = []
    for row in paper[own].itertuples():
        others = paper[~own & (paper["reduction"] >= row.reduction)]
        rows.append(
            {
                "reduction": row.reduction,
                "accuracy": row.accuracy,
                "others_accuracy": others["accuracy"].max(),
                "gain": row.gain,
                "others_gain": others["gain"].max(),
            }
        )
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------- ours beside the paper's


def beside() -> pd.DataFrame:
    """DF's rows of Tables 4 and 6, ours of ImageNet beside them, NaN where no run is there yet."""
    made = [
        df.beside(reported(network), experiments.imagenet.hybrid("imagenet", name))
        for network, (_, name) in TABLES.items()
    ]
    return pd.concat(made, ignore_index=True)


def measured_curve() -> pd.DataFrame | None:
    """Our rows of Figure 3b on ImageNet, or None where there is no run."""
    made = df.curve(finished(experiments.imagenet.figure_3b("imagenet")))
    return None if made.empty else made


def beside_text() -> str:
    """:func:`beside`, a dash where a run of ours is missing, and how many are."""
    rows = imagenet.hybrids(*(name for _, name in TABLES.values()))
    rows += experiments.imagenet.figure_3b("imagenet").values()
    said = imagenet.missing(rows, what="Tables 4 and 6 and Figure 3b")
    return "\n".join([df.beside_text(beside()), "", *imagenet.starts(rows), said])


# ------------------------------------------------------------------------------ where MACs can go


def reach(
    name: str, *, classes: int = CLASSES, input_shape: tuple[int, int, int] = SHAPE
) -> dict[str, float]:
    """How far filters and ranks can take a network, counted: shares (%) of its MACs.

    ``pointwise`` and ``depthwise`` are those of the 1×1 convolutions and of the depthwise ones.
    ``filters`` is what one filter in each layer that may lose any leaves, ``ranks`` what rank 1 in
    every layer that may be two leaves, ``both`` what the two leave: below these no budget can be
    met. ``break_even`` is the rank at which two factors cost what the layer does, as a share (%) of
    its full rank: their mean over the layers, weighted by MACs.
    """
    with torch.random.fork_rng(devices=[]):
        model = networks.build(name, classes=classes)
    found = structured.costs(model, input_shape=input_shape)
    layers = found.layers.values()
    dense = sum(layer.macs() for layer in layers)
    one = dict.fromkeys(found.sources, 1)
    rank_1 = {layer.name: 1 for layer in layers if layer.factors()}

    def share(built: Iterable[int]) -> float:
        return 100 * sum(built) / dense

    factored = [layer for layer in layers if layer.factors()]
    even = sum(layer.macs() * break_even(layer) for layer in factored)
    return {
        "macs": dense,
        "pointwise": share(x.macs() for x in layers if x.kernel == (1, 1) and x.groups == 1),
        "depthwise": share(x.macs() for x in layers if x.groups > 1),
        "filters": share(found.built(one, {}).values()),
        "ranks": share(found.built({}, rank_1).values()),
        "both": share(found.built(one, rank_1).values()),
        "break_even": 100 * even / sum(layer.macs() for layer in factored),
    }


def break_even(layer: structured.Layer, **left: int) -> float:
    """The rank at which two factors (scheme 1) cost what the layer does, over its full rank.

    With so many ``inputs`` and ``filters`` left, as given. From this share on factors save nothing.
    """
    layer = replace(layer, **left)
    # A·r·(k²·c_in + c_out) = A·k²·c_in·c_out
    return layer.macs() / layer.macs(rank=1) / layer.most()


def layers(run: Run) -> pd.DataFrame:
    """What went, layer by layer: filters before and left, rank, MACs of an image before and built.

    ``kind`` is ``depthwise``, ``1×1`` (linear layers too) or ``k×k``; ``rank`` is NaN of a layer
    that is whole. Two forward passes.
    """
    dense, built = run.dense_model(), run.model()
    shape = experiments.df.input_shape(run.result["dataset"], run.result["network"])
    ranks = structured.ranks(dense, built.state_dict())
    rows = [
        {
            "layer": layer.name,
            "kind": "depthwise" if layer.groups > 1 else "1×1" if layer.kernel == (1, 1) else "k×k",
            "filters": layer.filters,
            "left": parts[-1].filters,
            "rank": ranks.get(layer.name),
            "macs": layer.macs(),
            "built": sum(part.macs() for part in parts),
        }
        for layer, parts in df.became(dense, built, input_shape=shape)
    ]
    return pd.DataFrame(rows)
