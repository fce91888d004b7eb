"""The papers' figures and ours."""

from lib.workbook.plots import (
    admm,
    base,
    benchmarks,
    coders,
    comparison,
    df,
    figure_data,
    imagenet_costs,
    imagenet_df,
    lc,
)
from lib.workbook.plots.admm import (
    allocation,
    convergence,
    error_curves,
    kept_by_layer,
    layer_history,
    number_lines,
    on_hull,
    plane,
    rates,
    rates_by_network,
)
from lib.workbook.plots.base import MARKERS, STYLE, STYLES, images, plain_numbers, save
from lib.workbook.plots.benchmarks import costs, ladder
from lib.workbook.plots.coders import file_parts
