"""Makes the smaller network real: filters leave, layers become two, and both are counted and timed.

Filters first, then the ranks of what is left. A built network is an ordinary module: train it,
count it with ``lib.accounting``. Only where filters leave is the extra ``surgery`` needed.
"""

from lib.structured.factors import factor
from lib.structured.filters import (
    Feed,
    Keep,
    Structure,
    group_magnitude,
    remove_filters,
    structure,
)
from lib.structured.macs import Costs, Layer, costs, latency, layers
from lib.structured.prunable import prunable
from lib.structured.rebuild import become, ranks, rebuild, shrink_like
from lib.structured.selection import Score, choose_filters, least, ranks_for_macs
