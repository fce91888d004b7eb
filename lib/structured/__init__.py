"""Makes the smaller network real: filters leave, layers become two, and both are counted and timed.

Filters first, then the ranks of what is left. A built network is an ordinary module: train it,
count it with ``lib.accounting``.
"""

from lib.structured.cut import filter_dimensions
from lib.structured.factors import factor
from lib.structured.filters import (
    Keep,
    costs,
    group_magnitude,
    prunable,
    remove_filters,
    structure,
)
from lib.structured.graph import CONVOLUTIONS, Feed, Structure, filters_of, is_depthwise
from lib.structured.macs import REST, Costs, Layer, latency, layers
from lib.structured.prunable import listed
from lib.structured.rebuild import become, ranks, rebuild, shrink_like
from lib.structured.selection import (
    Score,
    choose_filters,
    least,
    nothing_may_leave,
    ranks_for_macs,
    within_budget,
)
