"""Run folders in, tables out: the papers' numbers beside ours, drops paired seed by seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib import experiments, paths, runs
from lib.experiments import Experiment
from lib.runs import Run

#: How often a drop's interval resamples seeds and images.
RESAMPLES = 2_000


def reported(name: str) -> pd.DataFrame:
    """A table of a paper as the paper prints it, such as ``admm_table3``."""
    return pd.read_csv(paths.REPORTED / f"{name}.csv")


def save(table: pd.DataFrame, name: str, *, dataset: str) -> None:
    """Writes ``name``.csv into the data set's tables."""
    folder = paths.results(dataset) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False)


def finished(experiment: Experiment, *, most: int = 100) -> list[Run]:
    """The finished runs of an experiment, seed by seed; nothing is trained."""
    found = (runs.folder_of(experiment, seed) for seed in range(most))
    return [runs.read(folder) for folder in found if runs.present(folder)]


def drop(compressed: Sequence[Run], *, against: str = "parent") -> dict[str, float]:
    """The accuracy lost, in points, as paired differences over seeds.

    ``against`` is ``parent`` (the dense network) or ``control`` (the same trained on as long).
    Returns ``drop`` (mean), ``drop_sd`` (over seeds, NaN for one) and ``n``.
    """
    key = {"parent": "dense_accuracy", "control": "control_accuracy"}[against]
    losses = [100 * (run.result[key] - run.result["accuracy"]) for run in compressed]
    spread = float(np.std(losses, ddof=1)) if len(losses) > 1 else float("nan")
    return {"drop": float(np.mean(losses)), "drop_sd": spread, "n": len(losses)}


def interval(compressed: Sequence[Run], *, against: str = "parent") -> tuple[float, float]:
    """A 95 % interval of the mean drop, in points, over other seeds and other test images.

    A bootstrap that resamples seeds and images together (2,000 times, fixed seed): the same
    images are drawn for both networks of a pair, so what both get right or wrong cancels.
    """
    lost = np.stack([_lost(run, against) for run in compressed])  # (seeds, images), −1, 0 or 1
    seeds, images = lost.shape
    generator = np.random.default_rng(0)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = lost[generator.integers(seeds, size=seeds)].mean(axis=0)  # (images,)
        means[i] = rows[generator.integers(images, size=images)].mean()
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def table_3(rows: Sequence[Sequence[Run]], *, dataset: str) -> pd.DataFrame:
    """ADMM Table 3: the paper's rows, then ours, a row for each experiment's runs over seeds.

    Ours also have the absolute accuracy (%), the drop against the dense network trained on, the
    entropy rate and the bytes of a file with positions, codebooks and biases.
    """
    paper = reported("admm_table3").assign(source="reported", data="mnist")
    paper["automated"] = paper["automated"] == "yes"
    return pd.concat([paper, pd.DataFrame([_row(r, dataset) for r in rows if r])])


def uniform(table: pd.DataFrame) -> pd.DataFrame:
    """A layer table whose budget is spent evenly: the same share kept and bits in every layer."""
    share = table["kept"].sum() / table["weights"].sum()
    bits = (table["kept"] * table["bits"]).sum() / table["kept"].sum()
    return table.assign(kept=(share * table["weights"]).round().astype(int), bits=bits)


def _row(compressed: Sequence[Run], dataset: str) -> dict:
    results = pd.DataFrame([run.result for run in compressed])
    mean = results.mean(numeric_only=True)
    against_control = drop(compressed, against="control")
    low, high = interval(compressed)
    return {
        "method": "ADMM (this workbook)",
        "source": "ours",
        "data": dataset,
        "automated": True,
        "nonzero_percent": 100 * mean["kept_fraction"],
        "mean_bits": results["nominal_bits"].sum()
        / (results["kept_fraction"] * experiments.LENET5_WEIGHTS).sum(),
        "rate": mean["nominal_rate"],
        "drop_points": drop(compressed)["drop"],
        "drop_sd": drop(compressed)["drop_sd"],
        "drop_low": low,
        "drop_high": high,
        "control_drop": against_control["drop"],
        "n": len(compressed),
        "dense_accuracy": 100 * mean["dense_accuracy"],
        "accuracy": 100 * mean["accuracy"],
        "entropy_rate": mean["entropy_rate"],
        "estimated_bytes": mean["estimated_bytes"],
    }


def _lost(run: Run, against: str) -> np.ndarray:
    """+1 where the compressed network fails on an image that the other knew, −1 the other way."""
    other = runs.read(run.folder.parent / run.result[against])
    return other.correct.astype(np.int8) - run.correct.astype(np.int8)
