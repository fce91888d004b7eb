"""The compiled programme against one in numpy, bit for bit, ties and rounding included."""

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from lib.projections.codebook import intervals_cpu
from lib.projections.codebook.intervals import best_cuts, programme
from lib.projections.codebook.rows import Row, share

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------- oracle


class Oracle:
    """Every step of every row, one position at a time."""

    def __init__(self, rows: list[Row], *, signs: bool):
        self.rows, self.signs = rows, signs
        self.best = [[float(r.rest[0])] for r in rows]
        self.end = [[0] for _ in rows]
        self.cost = [r.square - r.total**2 / np.maximum(r.number, 1) for r in rows]
        self.last = [[np.zeros(len(r.rest), int)] for r in rows]
        k = 0
        limits = [min(r.asked, len(r.rest) - 1) for r in rows]
        while active := [i for i in range(len(rows)) if k < limits[i] and self.unfinished(i, k)]:
            for _ in range(min(1 + k // 8, max(limits[i] for i in active) - k)):
                for i in active:
                    if k:
                        self.step(i)
                    closed = self.cost[i] + rows[i].rest
                    self.best[i].append(closed.min())
                    self.end[i].append(np.flatnonzero(closed == closed.min())[-1])
                k += 1

    def unfinished(self, i: int, k: int) -> bool:
        if not self.signs or k == 0:
            return True
        own, other = -np.diff(self.best[i]), -np.diff(self.best[i ^ 1])
        return (own >= own[-1]).sum() + (other >= own[-1]).sum() < self.rows[i].asked

    def step(self, i: int) -> None:
        number, total, square, *_ = self.rows[i]
        head, before = self.cost[i] - square, self.last[i][-1]
        m = len(number)
        cost, last = np.zeros(m), np.zeros(m, int)
        for stride in 2 ** np.arange(m.bit_length())[::-1]:
            for j in range(stride, m, 2 * stride):
                low = max(last[j - stride], before[j])
                high = min(last[j + stride] if j + stride < m else m, j - 1)
                cuts = np.arange(low, max(low, high) + 1)
                moved = total[j] - total[cuts]
                tried = head[cuts] - moved * moved / (number[j] - number[cuts])
                cost[j] = tried.min() + square[j]
                last[j] = cuts[tried == tried.min()][-1]
        self.cost[i] = cost
        self.last[i].append(last)

    def path(self, i: int, k: int) -> list[int]:
        path = [self.end[i][k]]
        for last in reversed(self.last[i][:k]):
            path.append(last[path[-1]])
        return sorted({int(at) for at in path})

    def cuts(self, layer: int, clusters: int) -> list[list[int]]:
        if not self.signs:
            return [self.path(layer, min(clusters, len(self.best[layer]) - 1))]
        negative, positive = (self.best[2 * layer + sign] for sign in (0, 1))
        least, first, second = np.inf, 0, 0
        for k in range(min(clusters, len(negative) - 1) + 1):
            others = min(clusters - k, len(positive) - 1)
            if negative[k] + positive[others] < least:
                least, first, second = negative[k] + positive[others], k, others
        return [self.path(2 * layer, first), self.path(2 * layer + 1, second)]


def row(values: np.ndarray, *, asked: int, signs: bool) -> Row:
    """Each value a point that stands for one to three; from the extreme inwards if it is a sign."""
    number = np.random.default_rng(len(values)).integers(1, 4, len(values)).astype(float)
    prefix = [np.append(0.0, np.cumsum(a)) for a in (number, number * values, number * values**2)]
    rest = np.append(np.full(len(values), np.inf), 0.0)
    if signs:
        rest[:-1] = np.cumsum((number * values**2)[::-1])[::-1]
    return Row(*prefix, rest=rest, asked=asked)


def points(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    draw = {
        "normal": lambda: rng.normal(size=size),
        "even": lambda: np.arange(size, dtype=float),  # the same gain everywhere
        "float32": lambda: 1 + np.arange(size) * 2.0**-23,  # costs drown in rounding
        "heavy": lambda: rng.standard_t(1, size=size),
    }
    return np.sort(np.abs(draw[kind]()))[::-1]


KINDS = ["normal", "even", "float32", "heavy"]


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_as_in_numpy_bit_for_bit(seed, signs):
    rng = np.random.default_rng(seed)
    wanted = [sorted({*rng.integers(1, 40, size=3).tolist()}) for _ in range(4)] + [[]]
    rows = [
        row(
            points(rng.choice(KINDS), rng.integers(0, 90), rng),
            asked=max(k, default=0),
            signs=signs,
        )
        for k in wanted
        for _ in range(1 + signs)
    ]
    found = best_cuts(rows, wanted, signs=signs, device=CPU)
    oracle = Oracle(rows, signs=signs)
    for layer, numbers in enumerate(wanted):
        paths = found[layer * (1 + signs) : (layer + 1) * (1 + signs)]
        for column, k in enumerate(numbers):
            assert [p[column].tolist() for p in paths] == oracle.cuts(layer, k)


def test_groups_side_by_side_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [row(points("normal", 300, rng), asked=16, signs=False) for _ in range(9)]
    found = []
    for together in (1, 600, 10_000):
        monkeypatch.setattr(intervals_cpu, "TOGETHER", together)
        found.append(best_cuts(rows, [[4, 16]] * 9, signs=False, device=CPU))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert [x.tolist() for x in a] == [x.tolist() for x in b]


def test_no_product_is_fused_with_a_sum():
    """A fused multiply-add rounds once instead of twice, on some processors and not on others."""
    step = numba.njit(error_model="numpy")(intervals_cpu._step.py_func)
    step(np.arange(9.0), *np.ones((4, 9)), *np.zeros((2, 9), np.uint16))
    (assembly,) = step.inspect_asm().values()
    assert assembly
    assert "fmadd" not in assembly
    assert "fmla" not in assembly


def test_the_share_of_a_sign_is_the_first_of_equals():
    best = torch.tensor([[4.0, 2.0, 1.0, torch.inf], [4.0, 2.0, torch.inf, torch.inf]])
    counts, wanted = torch.tensor([2, 1]), torch.tensor([[1, 2, 3, 0]])
    # either sign gains 2 by one cluster, and only the negative one can use a second
    assert share(best, counts, wanted, signs=True).tolist() == [[0, 1, 2, 0], [1, 1, 1, 0]]


def test_compiles_where_nothing_can_be_written():
    script = """
import sys, tempfile

def refuse(*_, **__):
    raise OSError("Read-only file system")

tempfile.TemporaryFile = refuse  # which numba tries a folder with
import torch
from lib.projections.codebook import fit_codebooks
print(fit_codebooks([torch.arange(16.0)], bitwidths=[2], free_zero=False).centres[0][0].tolist())
from lib.projections.codebook import intervals_cpu
print(type(intervals_cpu._programme._cache).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[1.5, 5.5, 9.5, 13.5]", "NullCache"]


def test_a_gpu_that_triton_does_not_serve_is_said(monkeypatch):
    assert programme(CPU) == "numba"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = torch.device("cuda", 7)
    with pytest.warns(RuntimeWarning, match=r"Triton does not work on cuda:7 .* on the CPU"):
        assert programme(gpu) == "numba"
    assert programme(gpu) == "numba"  # said once
    programme.cache_clear()
