"""Commands about runs: ``list | calibrate | run | fetch | export | merge | verify | publish``."""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from itertools import chain
from pathlib import Path

from lib import data, paths
from lib.networks import pretrained
from lib.training import OutOfTime, arithmetic, distributed
from lib.workbook import calibration, experiments, runs
from lib.workbook.benchmarks import missing_on_gpu
from lib.workbook.experiments import Entry
from lib.workbook.runs.parallel import EXPECTED
from lib.workbook.runs.verify import verify


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds these commands; ``command(name, function)`` makes one and returns its parser."""
    datasets = experiments.DATASETS

    listing = command("list", list_runs)
    listing.add_argument("--dataset", choices=datasets, help="default: every real data set")
    listing.add_argument("--json", action="store_true", help="for programs")

    calibrating = command("calibrate", calibrate)
    calibrating.add_argument("--once", action="store_true", help="not where it was done before")

    running = command("run", run)
    running.add_argument("names", nargs="*", metavar="NAME", help="a run's id, or an experiment")
    running.add_argument("--missing", action="store_true", help="all that is not done, in order")
    running.add_argument("--dataset", choices=datasets, help="of --missing; default: real ones")
    running.add_argument("--time-limit", type=_positive, metavar="SECONDS", help="stop by then")
    running.add_argument("--jobs", type=_positive, default=1, help="how many side by side")
    running.add_argument("--device", default="auto", help="default: a GPU where there is one")
    running.add_argument("--threads", type=_positive, default=runs.CPU_THREADS, help="a CPU run's")

    what = f"{', '.join(data.NAMES)}, a folder of images, or weights: those published for ImageNet"
    command("fetch", fetch).add_argument("dataset", help=what)

    exporting = command("export", export)
    exporting.add_argument("to", type=Path, metavar="FOLDER")
    exporting.add_argument("--dataset", choices=datasets, default="mnist")
    exporting.add_argument("--since", type=_moment, help="only runs finished since, ISO 8601")

    command("merge", merge).add_argument("parts", nargs="+", type=Path, metavar="PART")

    verifying = command("verify", verify_runs)
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all that are there")
    verifying.add_argument("--dataset", choices=datasets, default="mnist")

    command("publish", publish_results).add_argument(
        "--measured",
        type=Path,
        metavar="FOLDER",
        help="first take over the times that a benchmark notebook saved there",
    )


def list_runs(options: argparse.Namespace) -> int:
    """The catalogue with each run's status."""
    if not options.json and not calibration.known():
        print("measuring how fast this machine trains, once, some seconds", file=sys.stderr)
        calibration.measure()
    rows = [_row(entry, seed) for entry, seed in _queue(_datasets(options.dataset))]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(row["id"]) for row in rows)
    print(f"{'run':{width}}  status   priority   cpu    gpu    for")
    for row in rows:
        cpu, gpu = (_duration(row["seconds"][kind]) for kind in ("cpu", "cuda"))
        print(
            f"{row['id']:{width}}  {row['status']:8} {row['priority']:^8}"
            f"{'G' if row['gpu'] else ' '}{cpu:>6} {gpu:>6}    {row['purpose']}"
        )
    done = sum(row["status"] == "done" for row in rows)
    print(f"{done} of {len(rows)} done; times are estimates, on one CPU thread and on one GPU")
    if any(row["gpu"] for row in rows):
        print("G: by a schedule for a GPU; on a CPU run --missing leaves it out")
    print(calibration.described())
    found, here = calibration.known(), arithmetic.machine("cpu")
    if found and any(found[key] != value for key, value in here.items()):
        print("this is another machine: python -m lib calibrate measures it")
    for command in missing_on_gpu():
        print(f"not measured on a GPU: {command}")
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Measures how fast this machine trains, which the times of list and of the batch go by."""
    if not (options.once and calibration.known()):
        calibration.measure()
    print(calibration.described())
    return 0


def run(options: argparse.Namespace) -> int:
    """Trains what is named, or what is missing; under torchrun on all of its processes together."""
    if bool(options.names) == options.missing:
        raise ValueError("name the runs to do, or say --missing (python -m lib list shows them)")
    if options.jobs > 1 and distributed.launched():
        raise ValueError(
            f"--jobs {options.jobs} is of no use under torchrun, whose processes train one run "
            "together: leave it out"
        )
    with distributed.group(options.device):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    tasks = distributed.agree(lambda: _tasks(options))  # others may finish some meanwhile
    failed, unfinished = 0, 0
    limit = options.time_limit
    outcomes = runs.parallel.run_all(
        tasks,
        jobs=options.jobs,
        device=options.device,
        threads=options.threads,
        deadline=time.monotonic() + limit if limit else float("inf"),
        say=functools.partial(print, flush=True),
    )
    for id, error in outcomes:
        if isinstance(error, OutOfTime):
            unfinished += 1
            print(f"time     {id}: {error}", flush=True)
        elif error is not None:
            failed += 1
            kind = "" if isinstance(error, EXPECTED) else f"{type(error).__name__}: "
            print(f"failed   {id}: {kind}{error}", file=sys.stderr, flush=True)
        else:
            print(f"done     {id}", flush=True)
    if unfinished:
        print(f"{unfinished} runs left at the time limit; the same command goes on with them")
    return 1 if failed else 0


def _tasks(options: argparse.Namespace) -> list[runs.parallel.Task]:
    if not options.missing:
        return [task for name in options.names for task in experiments.find(name)]
    missing = [
        (entry, seed)
        for entry, seed in _queue(_wanted(options.dataset))
        if runs.status(entry.experiment, seed) in ("missing", "partial")
    ]
    on_gpu = runs.place(options.device).type == "cuda"
    left = sum(entry.gpu for entry, _ in missing) if not on_gpu else 0
    if left:
        print(f"left out: {left} runs by a schedule for a GPU (python -m lib run ID trains one)")
    return [(entry.experiment, seed) for entry, seed in missing if on_gpu or not entry.gpu]


def fetch(options: argparse.Namespace) -> int:
    """Gets a data set or the published weights beforehand, for nodes without internet."""
    if options.dataset == "weights":
        for name in pretrained.PUBLISHED:
            file = pretrained.downloaded(name)
            print(f"{name}: {file}, {file.stat().st_size:,} bytes")
        return 0
    dataset = data.load(options.dataset)
    shape = "×".join(map(str, dataset.shape))
    print(
        f"{options.dataset} in {paths.data()}: {data.describe(options.dataset)}; "
        f"{len(dataset.train):,} and {len(dataset.test):,} images of {shape} in "
        f"{dataset.classes:,} classes, fingerprint {dataset.fingerprint[:12]}"
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Packs finished runs into parts."""
    for part in runs.exchange.export(options.to, dataset=options.dataset, since=options.since):
        print(f"{part}: {part.stat().st_size:,} bytes")
    return 0


def merge(options: argparse.Namespace) -> int:
    """Adds the runs of exported parts."""
    new = runs.exchange.merge(options.parts)
    for id in new:
        print(f"merged   {id}")
    print(f"{len(new)} new runs")
    return 0


def verify_runs(options: argparse.Namespace) -> int:
    """Recomputes runs from their weights."""
    if options.names:
        tasks = [task for name in options.names for task in experiments.find(name)]
        found = [runs.read(runs.folder_of(*task)) for task in tasks]
    else:
        found = runs.finished(options.dataset)
    if not found:
        raise ValueError(f"no finished run of {options.dataset!r} in {paths.runs(options.dataset)}")
    failed = 0
    for run in found:
        if not run.weights.exists():
            print(f"passed over {run.id}: its weights are not committed")
            continue
        problems = verify(run)
        failed += bool(problems)
        print(f"{'differs' if problems else 'verified'}  {run.id}", *problems, sep="\n    ")
    return 1 if failed else 0


def publish_results(options: argparse.Namespace) -> int:
    """Writes the README's numbers, and results' tables and figures, anew from the finished runs."""
    from lib.workbook import publish  # it draws, which no other command waits for

    if options.measured:
        for file in publish.take_measured(options.measured):
            print(f"measured    {file.name}")
    found = publish.publish()
    for file in found["others"]:
        print(f"not written by this command: {file}")
    for folder in found["uncommitted"]:
        print(f"shown but not committed yet: {folder.name}")
    return 0


def _datasets(name: str | None) -> list[str]:
    """The named data set, else every real one: the others are for trying things out, or retired."""
    apart = (*paths.APART, *experiments.RETIRED)
    return [name] if name else [d for d in experiments.DATASETS if d not in apart]


def _wanted(name: str | None) -> list[str]:
    """What ``--missing`` runs on: the named data set, else every real one that is at hand."""
    names = _datasets(name)
    absent = [each for each in names if not name and not data.at_hand(each)]
    for each in absent:
        print(f"left out: {each} is not at hand (--dataset {each} downloads it where it can be)")
    return [each for each in names if each not in absent]


def _queue(datasets: list[str]) -> list[tuple[Entry, int]]:
    """The runs of several data sets' catalogues, by priority, then by seed."""
    entries = chain.from_iterable(map(experiments.catalogue, datasets))
    runs_ = [(entry, seed) for entry in entries for seed in range(entry.seeds)]
    return sorted(runs_, key=lambda run: run[0].place(run[1]))


def _row(entry: Entry, seed: int) -> dict:
    experiment = entry.experiment
    needed = {kind: getattr(experiment, kind) for kind in runs.train.NEEDS}
    return {
        "id": experiment.id(seed),
        "folder": runs.folder_of(experiment, seed).name,
        **{kind: other and other.id(seed) for kind, other in needed.items()},
        "status": runs.status(experiment, seed),
        "priority": entry.place(seed)[0],
        "gpu": entry.gpu,
        "seconds": {kind: experiments.seconds(experiment, kind) for kind in ("cpu", "cuda")},
        "purpose": entry.purpose,
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    # from four days on in hours
    return f"{seconds / 60:.0f} min" if seconds < 360_000 else f"{seconds / 3600:.0f} h"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be 1 or more")
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} needs a time zone, such as {text}+00:00")
    return moment
