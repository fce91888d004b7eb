"""The batch: the runs that the catalogue misses, in parallel, then every notebook on top of them.

`make reproduce` calls it with the options it wants; profiles/slurm/ is for a cluster. It schedules
and trains nothing itself: runs are `python -m lib run ID ...`, a notebook is papermill.

    results/{runs/<id>/, notebooks/<dataset>/, logs/<dataset>/}  a data set of the papers
    results/<dataset>/{runs/<id>/, notebooks/, logs/}            one to try things out (digits)

On a cluster a job reads this file anew when it starts, and others have finished meanwhile. So no
rule is named by its place among those that are missing.
"""

import json
import logging
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from lib import paths
from lib.workbook import calibration

DATASET = config.get("dataset", "digits")
GPUS = int(config.get("gpus", 0))  # of this machine; on a cluster 1, or 0 to train on CPUs

# For a cluster: the longest job, and the GPUs of a run that would be longer on one.
HOURS = float(config.get("hours", 24))
GPUS_PER_RUN = int(config.get("gpus_per_run", 1))

RESULTS = os.environ.get("WORKBOOK_RESULTS", "results")  # as in lib.paths
if paths.results(DATASET).name == DATASET:
    RUNS, BOOKS, LOGS = (f"{RESULTS}/{DATASET}/{part}" for part in ("runs", "notebooks", "logs"))
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
MISSING = [
    id
    for id, run in CATALOGUE.items()
    if run["status"] in ("missing", "partial") and (GPUS or not run["gpu"])
]


def about(path):
    """Whether a notebook is about the data set; its metadata name those that it is about."""
    return DATASET in json.loads(path.read_text())["metadata"]["workbook"]["datasets"]


NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb") if about(path))


def result(id):
    """A run's folder has its hash and seed, and another slug if it is older than a new name."""
    return f"{RUNS}/{CATALOGUE[id]['folder']}/result.json"


def needed_first(id):
    run = CATALOGUE[id]
    return [need for need in (run["parent"], run["like"], run["control"]) if need in MISSING]


def seconds(id):
    return CATALOGUE[id]["seconds"]["cuda" if GPUS else "cpu"]


# Short runs are one job on all cores: its processes are used again for run after run, so Python's
# start costs little beside them. Longer ones, and those for several GPUs, are a job each.
SHORT = 60
TOGETHER = GPUS < 2 and 0 < max(map(seconds, MISSING), default=0) <= SHORT

ALL_CORES = 1024  # more than there are: Snakemake takes those there are


def minutes(seconds):
    """How long a cluster is asked to let a job run: twice the estimate, and its start."""
    return math.ceil(2 * seconds / 60) + 10


def at_most(minutes):
    """No more than may be asked. A run that is not done by then goes on from its checkpoint."""
    return min(minutes, int(60 * HOURS))


def gpus(id):
    """How many GPUs the run is trained on."""
    return GPUS_PER_RUN if GPUS and minutes(seconds(id)) > 60 * HOURS else min(1, GPUS)


def quarters(gpus):
    """What the run takes of this machine's GPUs: four runs share one, as a LeNet needs little."""
    return 4 * gpus if gpus > 1 else gpus


def trainer(id):
    """What trains the run: on several GPUs torchrun, a process for each."""
    several = f"-m torch.distributed.run --standalone --nproc-per-node {gpus(id)} "
    return (several if gpus(id) > 1 else "") + "-m lib run"


def device(id):
    if gpus(id) > 1:
        return "cuda"  # each process takes its own
    if GPUS > 1:
        return f"cuda:{MISSING.index(id) % GPUS}"  # in turn
    return "cuda:0" if GPUS else "cpu"


wildcard_constraints:
    id="|".join(map(re.escape, MISSING if workflow.is_main_process else CATALOGUE)),
    book="|".join(NOTEBOOKS),


rule all:
    input:
        expand(BOOKS + "/{book}.ipynb", book=NOTEBOOKS),
        [result(id) for id in MISSING],  # also where no notebook is about the data set


rule run:
    input:
        lambda wildcards: [result(need) for need in needed_first(wildcards.id)],
    output:
        update(RUNS + "/{id}/result.json"),  # never deleted, should another process have made it
    log:
        LOGS + "/{id}.log",
    params:
        trainer=lambda wildcards: trainer(wildcards.id),
        device=lambda wildcards: device(wildcards.id),
    priority: lambda wildcards: -CATALOGUE[wildcards.id]["priority"]  # 1 is the most urgent
    resources:
        quarter=lambda wildcards: quarters(gpus(wildcards.id)),
        gpu=lambda wildcards: gpus(wildcards.id),
        mem_mb=lambda wildcards: max(4_000, 16_000 * gpus(wildcards.id)),
        runtime=lambda wildcards: at_most(
            minutes(seconds(wildcards.id) / max(1, gpus(wildcards.id)))
        ),
    shell:
        "{sys.executable:q} {params.trainer} {wildcards.id} --threads 1 --device {params.device}"
        " &> {log:q} && echo 'Trained {wildcards.id}' >&2"
        " || {{ echo 'FAILED {wildcards.id}' >&2; exit 1; }}"


if TOGETHER:

    rule together:
        output:
            [update(result(id)) for id in MISSING],
        log:
            LOGS + "/together.log",
        params:
            ids=sorted(MISSING, key=seconds, reverse=True),  # so that no core is idle at the end
            jobs=lambda wildcards, threads: min(4, threads) if GPUS else threads,
            device="cuda:0" if GPUS else "cpu",
        threads: ALL_CORES
        resources:
            quarter=4 * GPUS,
            gpu=GPUS,
            mem_mb=16_000,
            runtime=at_most(minutes(sum(map(seconds, MISSING)))),  # as if one after the other
        shell:
            "{sys.executable:q} -m lib run {params.ids} --jobs {params.jobs} --threads 1"
            " --device {params.device} 2>&1 | tee {log:q} >&2 && echo 'Trained all runs' >&2"
            " || {{ echo 'FAILED among the runs' >&2; exit 1; }}"

    ruleorder: together > run


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
    threads: lambda wildcards: ALL_CORES if wildcards.book.startswith(("31", "9")) else 1
    priority: lambda wildcards: wildcards.book.startswith("51")  # the longest of the others first
    resources:
        gpu=0,
        mem_mb=8_000,
        runtime=at_most(240),
    # Snakemake deletes a failed job's output, so papermill writes elsewhere: what it leaves there
    # shows the cell that failed.
    params:
        unfinished=LOGS + "/{book}.ipynb",
    shell:
        "{sys.executable:q} -m papermill {input.book:q} {params.unfinished:q} -p dataset {DATASET}"
        " --no-progress-bar &> {log:q} && mv {params.unfinished:q} {output:q}"
        " && echo 'Executed {wildcards.book}' >&2 || {{ echo 'FAILED {wildcards.book}' >&2; exit 1; }}"


LOCK = FileLock(f".snakemake/{DATASET}.lock")

# Each job's log and what it makes: a log without all of its output is a failure.
if TOGETHER:
    JOBS = {f"{LOGS}/together.log": [result(id) for id in MISSING]}
else:
    JOBS = {f"{LOGS}/{id}.log": [result(id)] for id in MISSING}
JOBS |= {f"{LOGS}/{book}.log": [f"{BOOKS}/{book}.ipynb"] for book in NOTEBOOKS}


def calm(record):
    """Of Snakemake's messages, the count after each job and what went wrong."""
    event, message = getattr(record, "event", None), record.getMessage()
    if workflow.dryrun or workflow.remote_exec:
        return True
    if message.startswith("Cannot restore"):  # what update() keeps, and there was nothing
        return False
    if workflow.non_local_exec:  # which job is which, and why one failed, is the cluster's to say
        return event not in (LogEvent.JOB_INFO, LogEvent.SHELLCMD)
    # A failed job says so itself, and onerror once more.
    if event == LogEvent.JOB_ERROR or message.startswith("RuleException"):
        return False
    return event == LogEvent.PROGRESS or record.levelno >= logging.WARNING


def say(message):
    print(message, file=sys.stderr)


logger.addFilter(calm)
if workflow.is_main_process:
    counts = Counter(run["status"] for run in CATALOGUE.values())
    total = sum(map(seconds, MISSING))
    time = f"{total / 3600:,.0f} hours" if total > 7200 else f"{math.ceil(total / 60)} minutes"
    say(f"{DATASET}: {', '.join(f'{n} runs {status}' for status, n in counts.items())}")
    say(f"To train: about {time} of one {'GPU' if GPUS else 'CPU core'}")
    if MISSING and not GPUS:
        say(calibration.described())
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
