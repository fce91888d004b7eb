"""The papers' tables and ours: runs are read, and rows made of them."""

from lib.workbook.report import (
    admm,
    byte_budget,
    coders,
    columns,
    comparison,
    df,
    df_settings,
    imagenet,
    imagenet_costs,
    imagenet_df,
    lc,
    places,
    readme,
    rows,
    speed,
    statistics,
    trials,
)
from lib.workbook.report.admm import (
    allocations,
    committed_rows_4,
    features,
    figure_2,
    figure_2_claims,
    label,
    levels,
    table_3,
    table_4,
    uniform,
)
from lib.workbook.report.coders import file_parts
from lib.workbook.report.columns import shown
from lib.workbook.report.committed import COMMITTED, committed
from lib.workbook.report.rows import finished, interval, reported, save
