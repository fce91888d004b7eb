"""Runs: an experiment and a seed, trained once, and kept in a folder that is read ever after."""

from lib.workbook.runs import exchange, parallel, train
from lib.workbook.runs.result import Result, code_hash, commit
from lib.workbook.runs.store import (
    FILES,
    Damaged,
    Run,
    finished,
    folder_of,
    present,
    read,
    status,
)
from lib.workbook.runs.train import CPU_THREADS, dataset_of, get, place
