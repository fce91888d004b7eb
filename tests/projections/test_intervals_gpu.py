"""The GPU's programme in Triton's interpreter against the CPU's, and compiled without a GPU."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.projections.codebook import intervals_cpu
from lib.projections.codebook.rows import Row
from tests.projections.test_intervals import points, row

pytest.importorskip("triton")

INTERPRETED = """
import pickle, sys, torch
from lib.projections.codebook import intervals_gpu
problems = pickle.load(sys.stdin.buffer)
cpu = torch.device("cpu")
found = [intervals_gpu.best_cuts(*given, signs=signs, device=cpu) for *given, signs in problems]
pickle.dump(found, sys.stdout.buffer)
"""


def cost(row: Row, path: np.ndarray) -> float:
    number, total, square, rest, _ = row
    i, j = path[:-1], path[1:]
    clusters = square[j] - square[i] - (total[j] - total[i]) ** 2 / (number[j] - number[i])
    return clusters.sum() + rest[path[-1]]


def problem(seed: int, *, signs: bool) -> tuple[list[Row], list[list[int]], bool]:
    rng = np.random.default_rng(seed)
    wanted = [[1, 3, 9], [2], [20], []]
    rows = [
        row(points(kind, rng.integers(0, 80), rng), asked=max(numbers, default=0), signs=signs)
        for numbers in wanted
        for kind in rng.choice(["normal", "even", "heavy"], size=1 + signs)
    ]
    return rows, wanted, signs


def test_as_on_the_cpu():
    problems = [problem(seed, signs=signs) for seed, signs in enumerate([False, True])]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        input=pickle.dumps(problems),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    for (rows, wanted, signs), found in zip(problems, pickle.loads(done.stdout), strict=True):
        known = intervals_cpu.best_cuts(rows, wanted, signs=signs)
        each = 1 + signs
        for layer, numbers in enumerate(wanted):
            part = slice(each * layer, each * layer + each)
            for column in range(len(numbers)):
                one, other = (
                    sum(cost(r, p[column]) for r, p in zip(rows[part], paths[part], strict=True))
                    for paths in (found, known)
                )
                scale = sum(r.square[-1] for r in rows[part])
                assert one == pytest.approx(other, rel=1e-6, abs=1e-12 * scale)


@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_a_gpu(capability, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lib.projections.codebook import intervals_gpu

    floats, integers, cuts, places = "*fp64", "*i64", "*i16", "*i32"
    kernels = {
        "_step": [floats] * 6 + [cuts] * 2 + [floats, places] + [integers] * 3,
        "_close": [floats, places, floats, places, integers, integers, "i32", "i32"],
        "_trace": [cuts, places, integers, cuts, integers, "i32", "i32", "i32"],
    }
    constants = {"_step": {"ENDS": 32, "CUTS": 64}, "_close": {"WIDE": 256}, "_trace": {}}
    for name, types in kernels.items():
        kernel = getattr(intervals_gpu, name)
        given = dict(zip(kernel.arg_names, types, strict=False))
        given |= dict.fromkeys(constants[name], "constexpr")
        fixed = {(kernel.arg_names.index(n),): value for n, value in constants[name].items()}
        source = ASTSource(fn=kernel, signature=given, constexprs=fixed)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert compiled.asm["cubin"]
