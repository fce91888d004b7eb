"""What every notebook begins with: parameters checked, seeds set, versions shown, results saved.

What a notebook saves goes into a folder named for its data set and its parameters, which git
ignores: exploring never touches what is published (``python -m lib publish`` writes that), and the
runs of a sweep never overwrite each other.
"""

import ast
import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from lib import paths
from lib.workbook import plots, report

#: File systems take names of 255 bytes; a longer list of parameters is cut, and digested.
LONGEST_NAME = 200

_folder: Path | None = None  # of this kernel's notebook, from ``begin`` on


def begin(
    *, dataset: str, datasets: Sequence[str] | None = None, device: str = "auto", seed: int = 0
) -> str:
    """Checks what papermill injected, seeds PyTorch, sets the plotting style; returns versions.

    ``datasets`` are those that the notebook is about, every known one where it is not given; the
    batch reads the same names in its metadata. The second line of what is returned is the folder
    that :func:`save` writes into.

    Raises ``ValueError`` where papermill passed a parameter that the notebook does not declare
    (papermill itself only warns) or one of another type, where the device is not there, or the data
    set is another.
    """
    global _folder
    from lib.data import NAMES

    cells, variables = _kernel()
    refuse_undeclared(cells)
    refuse_other_types(cells, variables)
    datasets = NAMES if datasets is None else datasets
    if dataset not in datasets:
        raise ValueError(
            f"dataset = {dataset!r}: this notebook is about {', '.join(datasets)}; choose one"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device = {device!r} but no GPU is visible: use 'auto' or 'cpu'")
    torch.manual_seed(seed)
    plt.style.use(plots.STYLE)
    parameters = {name: variables[name] for name in declared(cells) if name in variables}
    _folder = paths.notebooks(dataset) / folder_name(parameters)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, data set {dataset}"
    inside = _folder.is_relative_to(paths.ROOT)
    shown = _folder.relative_to(paths.ROOT) if inside else _folder
    return f"{versions}\nfigures and tables are saved in {shown}"


def save(made: Figure | pd.DataFrame, name: str) -> None:
    """Writes a figure as ``name``.png and ``name``.svg, a table as ``name``.csv.

    Into the folder of this notebook's data set and parameters. Raises ``ValueError`` before
    :func:`begin`.
    """
    if _folder is None:
        raise ValueError("call notebook.begin(dataset=...) first: it names the folder to save in")
    writer = plots.save if isinstance(made, Figure) else report.save
    writer(made, name, _folder)


def declared(cells: Sequence[str]) -> dict[str, str]:
    """Name → type of the parameters, of the cell that declares them: the last with a data set.

    Empty where there is none.
    """
    for source in reversed(cells):
        try:
            body = ast.parse(source).body
        except SyntaxError:  # a magic
            continue
        types = {
            ast.unparse(node.target): ast.unparse(node.annotation)
            for node in body
            if isinstance(node, ast.AnnAssign)
        }
        if "dataset" in types and len(types) == len(body):
            return types
    return {}


def folder_name(parameters: Mapping[str, object]) -> str:
    """``epochs=20,rate=200``: every parameter but the data set, in the order of declaration."""
    said = [f"{name}={value}" for name, value in parameters.items() if name != "dataset"]
    whole = ",".join(said) or "no-parameters"
    name = re.sub(r"[^\w.,=+-]", "_", whole, flags=re.ASCII)
    if name == whole and len(name) <= LONGEST_NAME:
        return name
    # what was replaced or cut still tells folders apart
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def refuse_undeclared(cells: list[str]) -> None:
    """Raises ``ValueError`` where the injected cell sets what the cells before it do not declare.

    papermill puts the parameters it was given in a cell that begins with ``# Parameters``, right
    after the cell tagged ``parameters``.
    """
    for place, injected in enumerate(cells):
        if injected.startswith("# Parameters\n"):
            known = declared(cells[:place])
            given = re.findall(r"^(\w+)(?:: .*)? = ", injected, flags=re.MULTILINE)
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(
                    f"unknown parameter {', '.join(unknown)}: this notebook declares "
                    f"{', '.join(known)}"
                )


def refuse_other_types(cells: Sequence[str], variables: Mapping[str, object]) -> None:
    """Raises ``ValueError`` for a parameter that is not of the type that its cell declares.

    A whole number may stand for a float, and nothing else for another type: papermill's ``-p``
    reads 3 as a number and "3" as text, its ``-r`` everything as text.
    """
    for name, said in declared(cells).items():
        kind = eval(said, {})  # the notebook's own annotation, which the kernel has evaluated too
        value = variables.get(name)
        fits = isinstance(value, kind | int if kind is float else kind)
        if name in variables and (not fits or (isinstance(value, bool) and kind is not bool)):
            raise ValueError(
                f"{name} = {value!r} is of {type(value).__name__}: this notebook declares {said}"
            )


def _kernel() -> tuple[list[str], Mapping[str, object]]:
    """The sources of the cells run so far, and the kernel's variables."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return [], {}
    return [source.strip() for source in shell.user_ns["In"]], shell.user_ns
