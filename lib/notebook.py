"""What every notebook begins with: parameters checked, seeds set, versions shown, figures saved."""

import ast
import itertools
import platform
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch

from lib import plots


def begin(
    *, dataset: str, datasets: Sequence[str] | None = None, device: str = "auto", seed: int = 0
) -> str:
    """Checks what papermill injected, seeds PyTorch, sets the plotting style; returns versions.

    ``datasets`` are those that the notebook is about, every known one where it is not given; the
    batch reads the same names in its metadata.

    Raises ``ValueError`` where papermill passed a parameter that the notebook does not declare
    (papermill itself only warns), where the device is not there, or the data set is another.
    """
    from lib.data import NAMES

    refuse_undeclared(_cells())
    datasets = NAMES if datasets is None else datasets
    if dataset not in datasets:
        raise ValueError(
            f"dataset = {dataset!r}: this notebook is about {', '.join(datasets)}; choose one"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device = {device!r} but no GPU is visible: use 'auto' or 'cpu'")
    torch.manual_seed(seed)
    plt.style.use(plots.STYLE)
    return f"Python {platform.python_version()}, torch {torch.__version__}, data set {dataset}"


def refuse_undeclared(cells: list[str]) -> None:
    """Raises ``ValueError`` where the injected cell sets what the cell before it does not.

    papermill puts the parameters it was given in a cell that begins with ``# Parameters``, right
    after the cell tagged ``parameters``.
    """
    for declaring, injected in itertools.pairwise(cells):
        if injected.startswith("# Parameters\n"):
            unknown = sorted(_assigned(injected) - _assigned(declaring))
            if unknown:
                known = ", ".join(sorted(_assigned(declaring)))
                raise ValueError(
                    f"unknown parameter {', '.join(unknown)}: this notebook declares {known}"
                )


def _assigned(source: str) -> set[str]:
    nodes = ast.parse(source).body
    targets = [t for node in nodes if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in nodes if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _cells() -> list[str]:
    """The sources of the cells run so far."""
    from IPython import get_ipython

    shell = get_ipython()
    return [] if shell is None else [source.strip() for source in shell.user_ns["In"]]
