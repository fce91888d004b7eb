"""ImageNet: ADMM's Table 2, and DF's Tables 4 and 6 with Figure 3b.

The published networks are the start of all rows. A row's control is its start fine-tuned for as
long, which doubles its price. When a run ends it reads the training images once more for its loss,
and once to measure BatchNorm again: about a third of an epoch each.

On ``imagenet-sample``, three classes of drawn pictures, a few rows of a few epochs go the same way:
they prove the path, not the result.
"""

from collections.abc import Iterator

from lib.workbook.experiments import df
from lib.workbook.experiments.recipes import (
    RHO,
    admm_schedule,
    bits_at,
    classes,
    dense,
    layer_weights,
    slower,
    unusual,
    weights,
)
from lib.workbook.experiments.spec import Entry, Experiment, compressed, stage, wanted

#: Epochs of compression, and of training the values that are left.
EPOCHS = {"imagenet": (90, 60), "imagenet-sample": (2, 1)}

#: ρ of AlexNet is the authors' public one, of the others the paper's.
RHOS = {"alexnet": 1e-3}

#: AlexNet goes to its rates in stages, by the authors' public settings of about 40, 60 and 100
#: times; each starts at the one before. Those that Table 2 has a row near to are tuned at the end.
#: The last quantization sends small weights to zero, so that the rate which is asked for is
#: exceeded (:data:`lib.workbook.experiments.admm_table_3.TABLE_3`): less is asked for than 118 and
#: 205.
STAGES = {"imagenet": (40, 60, 100, 200), "imagenet-sample": (40,)}
TUNED = {"imagenet": (100, 200), "imagenet-sample": (40,)}

#: Our other rows of Table 2 by ADMM, in the paper's order.
ROWS = {
    "imagenet": (
        {"network": "mobilenetv1", "rate": 16, "mode": "quantize"},
        {"network": "mobilenetv1", "rate": 32 / 3, "mode": "quantize"},
        {"network": "mobilenetv1", "rate": 26.7},
        {"network": "mnasnet", "rate": 17.1},
        {"network": "mnasnet", "rate": 35.6},
        {"network": "proxylessnas-mobile", "rate": 16.8},
        {"network": "proxylessnas-mobile", "rate": 35.6},
    ),
    "imagenet-sample": (
        {"network": "mobilenetv1", "rate": 32 / 3, "mode": "quantize"},
        {"network": "mobilenetv1", "rate": 26.7},
    ),
}

#: The baselines that are ours to run: every layer of one width (of Deep Compression the values
#: alone), half of the weights at four bits (Fixed-Bitwidth), and Deep Compression whole.
UNIFORM = {
    "imagenet": (("mobilenetv1", 2), ("mobilenetv1", 3), ("mobilenetv1", 8)),
    "imagenet-sample": (("mobilenetv1", 3),),
}
FIXED_BITWIDTH = {
    "imagenet": ("mnasnet", "proxylessnas-mobile"),
    "imagenet-sample": ("mobilenetv1",),
}

#: Shares of AlexNet's layers that stay: Han et al., "Learning both Weights and Connections" (NIPS
#: 2015), Table 4. Bits of their values: Han et al., "Deep Compression" (ICLR 2016), Section 3.
HAN_SHARES = (0.84, 0.38, 0.35, 0.37, 0.37, 0.09, 0.09, 0.25)
HAN_BITS = (8, 8, 8, 8, 8, 5, 5, 5)

#: Shares of the MACs that go: the hybrid's in Tables 4 and 6.
REDUCTIONS = {
    "imagenet": {
        "resnet50-imagenet": (0.44, 0.5, 0.66, 0.78),
        "resnet18-imagenet": (0.5, 0.62, 0.7),
        "mobilenetv2": (0.35, 0.55),
    },
    "imagenet-sample": {"resnet18-imagenet": (0.5,), "mobilenetv2": (0.35,)},
}

#: Table 2 has 8 for ImageNet.
BETA = 8.0

#: DF's step where it is another: in the sample's thirty steps no mask would come past ½ at 0.02.
STEP = {"imagenet-sample": 0.05}


def alexnet(dataset: str) -> dict[int, Experiment]:
    """Rate → AlexNet at that stage."""
    found: dict[int, Experiment] = {}
    start = dense(dataset, network="alexnet")
    for rate in STAGES[dataset]:
        start = found[rate] = admm(
            dataset, network="alexnet", rate=rate, start=start, tune=rate in TUNED[dataset]
        )
    return found


def admm(
    dataset: str,
    *,
    network: str,
    rate: float,
    mode: str = "joint",
    start: Experiment | None = None,
    tune: bool = True,
) -> Experiment:
    """ADMM to a nominal rate, then zeros held and values trained, unless not to ``tune``.

    From the dense network, or from ``start``.
    """
    start = start or dense(dataset, network=network)
    budget = bits_at(rate, network, dataset)
    options = unusual({"budget": budget, "rho": RHOS.get(network, RHO), "mode": mode})
    name = f"admm-{mode}-{rate:.3g}x"
    return _row(start, name, mode, budget, ("admm", options), *[("tune-codebooks", {})] * tune)


def uniform(dataset: str, *, network: str, bits: int) -> Experiment:
    """Every layer with 2ᵇ values by k-means, zero one of them at best, and trained."""
    return _row(
        dense(dataset, network=network),
        f"kmeans-{bits}bits",
        "quantize",
        bits * weights(network, classes(dataset)),
        ("tune-codebooks", {"bits": bits, "free_zero": False}),
        ("tune-codebooks", {}),
    )


def fixed_bitwidth(dataset: str, *, network: str) -> Experiment:
    """Half of the weights by magnitude, over all layers, at four bits."""
    return _row(
        dense(dataset, network=network),
        "fixed-bitwidth-16x",
        "fixed-bitwidth",
        2 * weights(network, classes(dataset)),
        ("magnitude", {"keep": 0.5}),
        ("tune-codebooks", {"bits": 4}),
    )


def deep_compression(dataset: str) -> Experiment:
    """AlexNet by Deep Compression, at Han et al.'s shares and bits."""
    layers = zip(HAN_BITS, HAN_SHARES, layer_weights("alexnet", classes(dataset)), strict=True)
    return _row(
        dense(dataset, network="alexnet"),
        "deep-compression",
        "deep-compression",
        sum(bits * int(share * n) for bits, share, n in layers),
        ("magnitude", {"keep": HAN_SHARES, "scope": "layer"}),
        ("tune-codebooks", {"bits": HAN_BITS}),
    )


def _row(
    start: Experiment, name: str, mode: str, budget: int, *parts: tuple[str, dict]
) -> Experiment:
    """What compresses, for the paper's epochs, and what trains its values, at a tenth of the rate.

    A tenth, as everywhere here: the paper leaves it open.
    """
    dataset, network = start.dataset, start.network
    first, second = EPOCHS[dataset]
    schedule = admm_schedule(dataset, network, first)
    schedules = schedule, slower(schedule, second)
    stages = [stage(m, s, **o) for (m, o), s in zip(parts, schedules, strict=False)]
    slug = f"{network}-{dataset}-{name}-{'+'.join(str(s.epochs) for s in stages)}ep"
    return compressed(start, slug, *stages, mode=mode, budget=budget)


def table_2(dataset: str) -> list[Experiment]:
    """Our rows of ADMM's Table 2, in the paper's order of networks: baselines, then ADMM."""
    at_stages = alexnet(dataset)
    rows = [uniform(dataset, network=network, bits=bits) for network, bits in UNIFORM[dataset]]
    rows += [fixed_bitwidth(dataset, network=network) for network in FIXED_BITWIDTH[dataset]]
    rows += [] if dataset == "imagenet-sample" else [deep_compression(dataset)]
    rows += [at_stages[rate] for rate in TUNED[dataset]]
    rows += [admm(dataset, **row) for row in ROWS[dataset]]
    order = ("mobilenetv1", "alexnet", "mnasnet", "proxylessnas-mobile")
    return sorted(rows, key=lambda row: order.index(row.network))


def hybrid(dataset: str, network: str) -> dict[float, Experiment]:
    """Reduction → DF's rows of a network: Table 4 of ResNet-50, Table 6 of the others."""
    return {r: _df(dataset, network, r) for r in REDUCTIONS[dataset][network]}


def figure_3b(dataset: str) -> dict[tuple[str, float], Experiment]:
    """(mode, reduction) → the hybrid of Figure 3b, and its halves.

    Of ResNet-50; on the sample of ResNet-18.
    """
    network = next(iter(REDUCTIONS[dataset]))
    return {
        (mode, r): _df(dataset, network, r, mode=mode)
        for mode in ("hybrid", "filters", "ranks")
        for r in REDUCTIONS[dataset][network]
    }


def _df(dataset: str, network: str, reduction: float, **options) -> Experiment:
    if dataset in STEP:
        options["step"] = STEP[dataset]
    return df.df(dataset, network=network, reduction=reduction, beta=BETA, **options)


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted on ImageNet, or on the sample; after all that is smaller."""
    yield from wanted(table_2(dataset), "ADMM Table 2", 11)
    for network in REDUCTIONS[dataset]:
        table = "DF Table 4, Figure 3b" if network == "resnet50-imagenet" else "DF Table 6"
        yield from wanted(hybrid(dataset, network).values(), table, 12)
    if dataset == "imagenet":
        yield from wanted(figure_3b(dataset).values(), "DF Figure 3b", 13)
