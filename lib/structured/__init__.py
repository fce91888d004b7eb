"""Makes the smaller network real: filters leave, layers become two, and both are counted and timed.

Filters first, then the ranks of what is left. A built network is an ordinary module: train it,
count it with ``lib.accounting``. Only where filters leave is the extra ``surgery`` needed.
"""

from collections.abc import Mapping

from torch import nn

from lib.structured.factors import factor
from lib.structured.filters import (
    Feed,
    Keep,
    depthwise,
    feeds,
    group_magnitude,
    norms,
    remove_filters,
)
from lib.structured.macs import Costs, Layer, costs, latency, layers, predicted_macs
from lib.structured.prunable import prunable
from lib.structured.rebuild import become, ranks, rebuild, shrink_like
from lib.structured.selection import Score, choose_filters, choose_ranks, least


def shrink(
    model: nn.Module,
    keep: Mapping[str, Keep],
    ranks: Mapping[str, int | None],  # noqa: F811
    *,
    scheme: int = 1,
    input_shape: tuple[int, ...],
) -> nn.Module:
    """A copy of ``model`` with the filters in ``keep`` alone, its layers in factors of ``ranks``.

    :func:`remove_filters`, then :func:`factor`: a rank is one of the pruned weight, and whether
    factors pay is decided at its size.
    """
    pruned = remove_filters(model, keep, input_shape=input_shape)
    return factor(pruned, ranks, scheme=scheme, input_shape=input_shape)
