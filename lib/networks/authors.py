"""How the authors of MobileNetV1's and ProxylessNAS's files of weights name what is in them."""

from lib.networks.mobile import BLOCKS, STAGES

#: Rows of the last layer where the first is the background, and ImageNet's 1,000 classes follow.
WITH_BACKGROUND = {"mobilenetv1": 1001}


def tensor_names(name: str) -> dict[str, str]:
    """Tensor in the authors' file → tensor of our network, where there is one.

    Empty for other networks: their files have our names.
    """
    pairs = LAYERS[name]() if name in LAYERS else {}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    kinds = {"conv": ("weight",), "bn": norm, "fc": ("weight", "bias")}
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for theirs, ours in pairs.items()
        for part in kinds[ours.rpartition(".")[2]]
    }


def _mobilenetv1() -> dict[str, str]:
    """Layers by their place: padding, convolution, BatchNorm, ReLU6, convolution, …"""
    pairs = {"model.0.1": "stem.conv", "model.0.2": "stem.bn"}
    for block in range(len(BLOCKS)):
        for unit, place in {"depthwise": 1, "pointwise": 4}.items():
            pairs[f"model.{block + 1}.{place}"] = f"blocks.{block}.{unit}.conv"
            pairs[f"model.{block + 1}.{place + 1}"] = f"blocks.{block}.{unit}.bn"
    return pairs | {"fc": "fc"}


def _proxylessnas() -> dict[str, str]:
    """Blocks in one list, with those that the search left out: each stage of several has four."""
    units = {
        "expand": "inverted_bottleneck",
        "depthwise": "depth_conv",
        "project": "point_linear",
    }
    pairs = {f"first_conv.{part}": f"stem.{part}" for part in ("conv", "bn")}
    first = 0
    for stage, (_, _, blocks) in enumerate(STAGES):
        for number, (_, expansion) in enumerate(blocks):
            for ours, theirs in units.items():
                if ours == "expand" and expansion == 1:
                    continue
                for part in ("conv", "bn"):
                    block = f"blocks.{first + number}.mobile_inverted_conv"
                    pairs[f"{block}.{theirs}.{part}"] = f"stages.{stage}.{number}.{ours}.{part}"
        first += 1 if len(blocks) == 1 else 4
    pairs |= {f"feature_mix_layer.{part}": f"mix.{part}" for part in ("conv", "bn")}
    return pairs | {"classifier.linear": "fc"}


#: Network → its layers, by their names in the authors' file.
LAYERS = {"mobilenetv1": _mobilenetv1, "proxylessnas-mobile": _proxylessnas}
