"""Experiments: what a run is, the papers' tables and figures as runs, and the catalogue of all."""

from lib.workbook.experiments.admm_table_3 import (
    EXTREME_RHOS,
    FIGURE_2_RHOS,
    LENET5_WEIGHTS,
    PERIODS,
    TABLE_3,
    endings,
    figure_2,
    table_3,
    tau,
)
from lib.workbook.experiments.admm_table_4 import table_4
from lib.workbook.experiments.index import DATASETS, RETIRED, catalogue, find, seconds
from lib.workbook.experiments.recipes import (
    ADMM_DEFAULTS,
    RHO,
    admm,
    admm_schedule,
    dense,
    dense_schedule,
    layer_weights,
    tuned,
    weights,
)
from lib.workbook.experiments.spec import Entry, Experiment, Stage, specification
