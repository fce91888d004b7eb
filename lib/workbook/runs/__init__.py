"""Runs: an experiment and a seed, trained once, and kept in a folder that is read ever after."""

from lib.workbook.runs import (
    checkpoints,
    exchange,
    packed_weights,
    parallel,
    search,
    store,
    train,
)
from lib.workbook.runs.store import (
    FILES,
    Damaged,
    Run,
    fill_file_bytes,
    finished,
    folder_of,
    present,
    read,
    status,
)
from lib.workbook.runs.train import CPU_THREADS, code_hash, commit, dataset_of, get, needs, place
