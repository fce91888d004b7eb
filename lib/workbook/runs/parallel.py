"""Several runs side by side, each in a process of its own that is used again for the next."""

import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from lib.data import DataUnavailable
from lib.training import Diverged, OutOfTime, distributed
from lib.workbook.experiments import Experiment
from lib.workbook.runs import train

Task = tuple[Experiment, int]

#: What a user is told in one line; anything else is a bug, and shows its traceback.
EXPECTED = (
    *(ValueError, OSError, DataUnavailable, Diverged),
    *(distributed.Differs, BrokenProcessPool),
)


def run_all(
    tasks: list[Task], *, jobs: int = 1, deadline: float = math.inf, **options
) -> Iterator[tuple[str, Exception | None]]:
    """Gets every task, earlier ones first; yields (run id, None or what went wrong) as they end.

    With ``jobs`` of one it trains here, with a progress bar. ``options`` are those of
    :func:`lib.workbook.runs.get`. A task is handed out when what it needs is done
    (needs that are not in ``tasks`` are trained by the task itself). A task whose need failed fails
    too, when it tries to get it.
    """
    options["deadline"] = deadline
    if jobs == 1:
        for experiment, seed in tasks:
            late = time.monotonic() > deadline
            yield experiment.id(seed), _late() if late else _attempt(experiment, seed, options)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting, running = dict.fromkeys(tasks), {}
        while waiting or running:
            if time.monotonic() > deadline:  # what runs ends by itself, nothing is begun
                yield from ((experiment.id(seed), _late()) for experiment, seed in waiting)
                waiting = {}
            unfinished = {e.id(s) for e, s in [*waiting, *running.values()]}
            for experiment, seed in list(waiting):
                blocked = any(n.id(seed) in unfinished for n in experiment.needs)
                if len(running) < jobs and not blocked:
                    del waiting[experiment, seed]
                    quietly = options | {"quiet": True}
                    future = pool.submit(_attempt, experiment, seed, quietly)
                    running[future] = (experiment, seed)
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                experiment, seed = running.pop(future)
                yield experiment.id(seed), future.exception() or future.result()


def _late() -> OutOfTime:
    return OutOfTime("not begun before the time limit")


def _attempt(experiment: Experiment, seed: int, options: dict) -> Exception | None:
    """One task; what goes wrong is returned so that the others go on.

    Of several processes that train together, they go on if it went wrong on all of them.
    """
    try:
        train.get(experiment, seed, **options)
    except Exception as error:  # reported by the caller, with the run's id
        if distributed.processes() > 1 and not isinstance(error, (Diverged, OutOfTime)):
            raise
        return error
    return None
