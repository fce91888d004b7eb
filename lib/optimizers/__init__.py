"""The compression methods, by the name that an experiment's stage gives them."""

from lib.optimizers.admm import ADMM
from lib.optimizers.codebook_tuning import CodebookTuning
from lib.optimizers.differentiable import DF
from lib.optimizers.file_budget import FileADMM, FitFile
from lib.optimizers.learning_compression import LearningCompression
from lib.optimizers.method import Method
from lib.optimizers.pruning import HeldZeros, MagnitudePruning
from lib.optimizers.structured import FilterPruning, LearnedRanks, RankSelection

METHODS: dict[str, type[Method]] = {
    "sgd": Method,
    "admm": ADMM,
    "tune-codebooks": CodebookTuning,
    "admm-file": FileADMM,
    "fit-file": FitFile,
    "lc": LearningCompression,
    "magnitude": MagnitudePruning,
    "held-zeros": HeldZeros,
    "df": DF,
    "filter-pruning": FilterPruning,
    "low-rank": RankSelection,
    "lc-ranks": LearnedRanks,
}
