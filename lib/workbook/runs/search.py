"""Black-box search of each layer's rates: shares of weights and bits, found by trying.

The family of AMC, HAQ, ReLeQ and CLIP-Q, here with Optuna's tree-structured Parzen estimator:
Bergstra, Bardenet, Bengio, Kégl, "Algorithms for Hyper-Parameter Optimization" (NIPS 2011).
"""

import copy
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

from torch import nn
from tqdm.auto import tqdm

from lib.accounting import shares
from lib.data import Dataset
from lib.layers import compressible
from lib.optimizers import CodebookTuning, MagnitudePruning
from lib.projections import checks
from lib.training import OutOfTime, Schedule, distributed, evaluate, train

#: A layer's density, before all are scaled to the budget, and its bits.
DENSITIES, BITS = (0.01, 1.0), (1, 6)


class BlackBox:
    """max accuracy over each layer's share of weights and bits, s.t. Σ keepᵢ·nᵢ·bitsᵢ ≤ ``budget``.

    Each of ``trials`` draws every layer's density, log-uniform, and bits; the densities are scaled
    so that the whole budget is spent, if the network has as many bits. Raises ``ValueError`` for
    numbers out of range.
    """

    def __init__(self, *, budget: int, trials: int):
        checks.within("budget", budget, 0)
        checks.whole("trials", trials, 1, 10_000)
        self.budget, self.trials = budget, trials


def search(
    model: nn.Module,
    dataset: Dataset,
    schedule: Schedule,
    method: BlackBox,
    *,
    seed: int,
    stage: int = 0,
    resume: dict | None = None,
    save: Callable[[dict], None] = lambda state: None,
    deadline: float = math.inf,
    trace: bool = False,
    description: str = "",
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Leaves the best trial's network in ``model``, and returns a history row a trial.

    A trial prunes a copy of ``model`` by magnitude, trains it by ``schedule`` and shares its
    values; it is worth its accuracy on ``dataset.test``, which so is to be held out of the training
    images. A trial depends on the seed and the trials before it alone, so a search that was resumed
    is the one that was not. Arguments as of ``lib.training.train``; nothing is traced.
    """
    layers = {name: weight.numel() for name, weight in compressible(model).items()}
    state = resume or {"trials": [], "best": None, "history": []}
    history, longest = state["history"], 0.0
    shown = {"unit": "trial", "disable": quiet, "dynamic_ncols": True}
    with tqdm(desc=description, total=method.trials, initial=len(history), **shown) as bar:
        while len(history) < method.trials:
            began = time.monotonic()
            if distributed.agree(lambda late=began + 1.2 * longest > deadline: late):
                raise OutOfTime(f"stopped after {len(history)} of {method.trials} trials")
            drawn = _suggest(layers, state["trials"], seed=1000 * seed + len(history))
            bits = [drawn[f"{name}.bits"] for name in layers]
            densities = [drawn[f"{name}.density"] for name in layers]
            costs = [b * n for b, n in zip(bits, layers.values(), strict=True)]
            keep = shares(densities, costs, method.budget)
            candidate = copy.deepcopy(model)
            rows = _try(candidate, dataset, schedule, keep, bits, seed=seed, stage=stage)
            loss, accuracy = evaluate(candidate, dataset, dataset.test)
            best = max((row["test_accuracy"] for row in history), default=-1.0)
            if accuracy > best:
                state["best"] = candidate.state_dict()
            state["trials"].append((drawn, accuracy))
            history.append(
                {
                    "trial": len(history) + 1,
                    "train_loss": rows[-1]["train_loss"],
                    "test_loss": loss,
                    "test_accuracy": accuracy,
                    "seconds": time.monotonic() - began,
                    **{f"{name}.keep": k for name, k in zip(layers, keep, strict=True)},
                    **{f"{name}.bits": b for name, b in zip(layers, bits, strict=True)},
                }
            )
            save(state)
            bar.set_postfix(best=f"{max(accuracy, best):.2%}")
            bar.update(1)
            longest = max(longest, time.monotonic() - began)
    model.load_state_dict(state["best"])
    return history


def _try(candidate, dataset, schedule, keep, bits, **common) -> list[dict[str, float]]:
    """Prunes, trains, shares values; the history of the training."""
    pruning = MagnitudePruning(keep=keep, scope="layer")
    rows = train(candidate, dataset, schedule, pruning, quiet=True, **common)
    at_once = replace(schedule, epochs=0, warmup=0)
    train(candidate, dataset, at_once, CodebookTuning(bits=bits), quiet=True, **common)
    return rows


def _suggest(layers: dict[str, int], trials: list[tuple[dict, float]], *, seed: int) -> dict:
    """What to try next: each layer's density and bits, by name."""
    import optuna  # here, because nothing else that trains needs it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    density = optuna.distributions.FloatDistribution(*DENSITIES, log=True)
    bits = optuna.distributions.IntDistribution(*BITS)
    space = {f"{name}.density": density for name in layers}
    space |= {f"{name}.bits": bits for name in layers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        [
            optuna.trial.create_trial(params=drawn, distributions=space, value=value)
            for drawn, value in trials
        ]
    )
    return study.ask(space).params
