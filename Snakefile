"""The batch: the runs that the catalogue misses, in parallel, then every notebook on top of them.

`make reproduce` calls it with the options it wants. It schedules and trains nothing itself: runs
are `python -m lib run ID ...`, a notebook is papermill.

    results/digits/{runs/<id>/, notebooks/, logs/}               digits
    results/{runs/<id>/, notebooks/<dataset>/, logs/<dataset>/}  any other data set
"""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

DATASET = config.get("dataset", "digits")
GPUS = int(config.get("gpus", 0))

RESULTS = os.environ.get("WORKBOOK_RESULTS", "results")  # as in lib.paths
if DATASET == "digits":
    RUNS, BOOKS, LOGS = (f"{RESULTS}/digits/{part}" for part in ("runs", "notebooks", "logs"))
else:
    RUNS, BOOKS, LOGS = (
        f"{RESULTS}/{part}" for part in ("runs", f"notebooks/{DATASET}", f"logs/{DATASET}")
    )

# A process of its own, so that the scheduler stays free of torch; its errors go to the terminal.
listing = subprocess.run(
    [sys.executable, "-m", "lib", "list", "--dataset", DATASET, "--json"],
    stdout=subprocess.PIPE,
)
if listing.returncode:
    raise SystemExit(listing.returncode)
CATALOGUE = {run["id"]: run for run in json.loads(listing.stdout)}

# Only runs that are not there are jobs. A finished one is a plain input file, whatever its date:
# a clone gives committed runs any order of dates, and no rule may ever delete or repeat one.
# Stale and damaged ones are the user's to decide on; a notebook that needs one says so.
DONE = [id for id, run in CATALOGUE.items() if run["status"] == "done"]
MISSING = [id for id, run in CATALOGUE.items() if run["status"] in ("missing", "partial")]


def about(path):
    """Whether a notebook is about the data set; its metadata name those that it is about."""
    return DATASET in json.loads(path.read_text())["metadata"]["workbook"]["datasets"]


NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb") if about(path))


def result(id):
    return f"{RUNS}/{id}/result.json"


def needed_first(id):
    run = CATALOGUE[id]
    return [need for need in (run["parent"], run["like"], run["control"]) if need in MISSING]


def seconds(id):
    return CATALOGUE[id]["seconds"]["cuda" if GPUS else "cpu"]


# Short runs are one job on all cores: its processes are used again for run after run, so Python's
# start costs little beside them. Longer ones, and those for several GPUs, are a job each.
SHORT = 60
TOGETHER = GPUS < 2 and 0 < max(map(seconds, MISSING), default=0) <= SHORT
LONGEST_FIRST = sorted(MISSING, key=seconds, reverse=True)  # no core is left idle at the end
BATCHES = [LONGEST_FIRST] if TOGETHER else [[id] for id in MISSING]


def heard(log):
    """Where a training job's output goes: of many runs together to the terminal, too."""
    return f"2>&1 | tee {log} >&2" if TOGETHER else f"&> {log}"


wildcard_constraints:
    book="|".join(NOTEBOOKS),


rule all:
    input:
        expand(BOOKS + "/{book}.ipynb", book=NOTEBOOKS),
        [result(id) for id in MISSING],  # also where no notebook is about the data set


for number, ids in enumerate(BATCHES):

    rule:
        name:
            f"run_{number}"
        input:
            [result(need) for id in ids for need in needed_first(id) if need not in ids],
        output:
            [result(id) for id in ids],
        log:
            f"{LOGS}/{ids[0]}.log",
        params:
            ids=ids,
            said=ids[0] + (f" and {len(ids) - 1} more" if len(ids) > 1 else ""),
            device=f"cuda:{number % GPUS}" if GPUS else "cpu",
            jobs=lambda wildcards, threads: min(4, threads) if GPUS else threads,
            heard=heard(f"{LOGS}/{ids[0]}.log"),
        priority: -CATALOGUE[ids[0]]["priority"]  # 1 is the most urgent
        threads: (lambda wildcards: workflow.cores) if TOGETHER else 1
        resources:
            gpu=(4 if TOGETHER else 1) if GPUS else 0,
        shell:
            "{sys.executable:q} -m lib run {params.ids} --jobs {params.jobs} --threads 1"
            " --device {params.device} {params.heard} && echo 'Trained {params.said}' >&2"
            " || {{ echo 'FAILED among {params.said}' >&2; exit 1; }}"


rule notebook:
    input:
        [result(id) for id in DONE + MISSING],
        list(Path("lib").rglob("*.py")),
        book="notebooks/{book}.ipynb",
    output:
        BOOKS + "/{book}.ipynb",
    log:
        LOGS + "/{book}.log",
    # The lesson on speed and the benchmarks (9x) measure time, so nothing else runs beside them.
    threads: lambda wildcards: workflow.cores if wildcards.book.startswith(("31", "9")) else 1
    # Snakemake deletes a failed job's output, so papermill writes elsewhere: what it leaves there
    # shows the cell that failed.
    params:
        unfinished=LOGS + "/{book}.ipynb",
    shell:
        "{sys.executable:q} -m papermill {input.book} {params.unfinished} -p dataset {DATASET}"
        " --no-progress-bar &> {log} && mv {params.unfinished} {output}"
        " && echo 'Executed {wildcards.book}' >&2 || {{ echo 'FAILED {wildcards.book}' >&2; exit 1; }}"


LOCK = FileLock(f".snakemake/{DATASET}.lock")

# Each job's log and what it makes: a log without all of its output is a failure.
JOBS = {f"{LOGS}/{ids[0]}.log": [result(id) for id in ids] for ids in BATCHES}
JOBS |= {f"{LOGS}/{book}.log": [f"{BOOKS}/{book}.ipynb"] for book in NOTEBOOKS}


def calm(record):
    """Of Snakemake's messages, the count after each job and what went wrong."""
    event = getattr(record, "event", None)
    if workflow.dryrun:
        return True
    # A failed job says so itself, and onerror once more.
    if event == LogEvent.JOB_ERROR or record.getMessage().startswith("RuleException"):
        return False
    return event == LogEvent.PROGRESS or record.levelno >= logging.WARNING


def say(message):
    print(message, file=sys.stderr)


logger.addFilter(calm)
counts = Counter(run["status"] for run in CATALOGUE.values())
say(f"{DATASET}: {', '.join(f'{n} runs {status}' for status, n in counts.items())}")
say(f"Executed notebooks go to {BOOKS}/")


onstart:
    # Snakemake's own lock files survive a kill -9; this one belongs to the kernel and does not.
    try:
        LOCK.acquire(blocking=False)
    except Timeout:
        raise SystemExit(f"A batch for {DATASET} is already running in this folder.")
    for path in JOBS:
        Path(path).unlink(missing_ok=True)
        Path(path).with_suffix(".ipynb").unlink(missing_ok=True)


onerror:
    undone = [Path(path) for path, made in JOBS.items() if not all(map(os.path.exists, made))]
    logs = [path for path in undone if path.exists()]
    say(f"{len(logs)} failed, {len(undone) - len(logs)} not started:")
    for path in logs:
        lines = path.read_text().strip().splitlines() or ["no message"]
        book = path.with_suffix(".ipynb")
        for line in [line for line in lines if line.startswith("failed")] or lines[-1:]:
            say(f"  {path.stem}: {line}")
        say(f"    {book if book.exists() else path}")
