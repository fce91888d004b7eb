"""The papers' figures and ours."""

from lib.workbook.plots import (
    base,
    coders,
    comparison,
    df,
    figure_data,
    imagenet_costs,
    imagenet_df,
    lc,
)
from lib.workbook.plots.base import (
    MARKERS,
    STYLE,
    STYLES,
    allocation,
    convergence,
    costs,
    error_curves,
    file_parts,
    images,
    kept_by_layer,
    ladder,
    layer_history,
    number_lines,
    on_hull,
    plain_numbers,
    plane,
    rates,
    rates_by_network,
    save,
)
