"""The compression methods, by the name that an experiment's stage gives them."""

from lib.optimizers.admm import ADMM
from lib.optimizers.byte_budget import FileADMM, FitFile
from lib.optimizers.codebook_tuning import CodebookTuning
from lib.optimizers.df import DF
from lib.optimizers.df_baselines import FilterPruning, LearnedRanks, RankSelection
from lib.optimizers.lc import LC
from lib.optimizers.pruning import HeldZeros, MagnitudePruning
from lib.training.method import Method

METHODS: dict[str, type[Method]] = {
    "sgd": Method,
    "admm": ADMM,
    "tune-codebooks": CodebookTuning,
    "admm-file": FileADMM,
    "fit-file": FitFile,
    "lc": LC,
    "magnitude": MagnitudePruning,
    "held-zeros": HeldZeros,
    "df": DF,
    "filter-pruning": FilterPruning,
    "low-rank": RankSelection,
    "lc-ranks": LearnedRanks,
}
