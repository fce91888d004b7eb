"""What ``lib.compress`` returns: a smaller network, its file, and what it was before."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from lib import archive


@dataclass(frozen=True)
class Compressed:
    """A compressed network: ``model`` (in evaluation mode), and the file it makes.

    ``before`` and ``after`` hold ``loss``, ``accuracy`` (``None`` where the targets are no class
    numbers), ``bytes`` (of float32 before, of the file after), ``kept`` weights and ``macs``
    (``None`` where they cannot be counted). ``layers`` is the file's table, a row a tensor.
    ``left_alone`` says which weights were not compressed, and why; ``method`` is what compressed.
    """

    model: nn.Module
    content: bytes
    budget: str
    method: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    layers: pd.DataFrame
    left_alone: dict[str, str]

    def write(self, path: Path | str) -> int:
        """Writes the file and returns its size in bytes; see :func:`lib.archive.write`."""
        return archive.save(path, self.content)

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """What is printed: the file's tensors, and the network before and after."""
        share = self.layers.filter(like="_bits").sum(axis=1)
        kept = 100 * self.layers["kept"] / self.layers["weights"].clip(1)
        tensors = pd.DataFrame(
            {
                "tensor": self.layers["name"],
                "shape": self.layers["shape"],
                "kept, %": kept.round(2),
                "bytes": (share / 8).round().astype(int),
            }
        )
        known = [name for name, value in self.before.items() if value is not None]
        rows = {"before": self.before, "after": self.after}
        said = {when: [_said(row[name]) for name in known] for when, row in rows.items()}
        return tensors, pd.DataFrame(said, index=known)

    def __str__(self) -> str:
        tensors, whole = self.tables()
        lines = [f"budget: {self.budget}", tensors.to_string(index=False), "", whole.to_string()]
        lines += [f"left alone: {name}, {reason}" for name, reason in self.left_alone.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        tensors, whole = self.tables()
        lines = [f"left alone: {name}, {reason}" for name, reason in self.left_alone.items()]
        said = "".join(f"<p>{escape(line)}</p>" for line in [f"budget: {self.budget}", *lines])
        return whole.to_html() + tensors.to_html(index=False) + said


def curve(found: Sequence[Compressed]) -> pd.DataFrame:
    """Size against accuracy: a row a budget, the dense network first."""
    dense = {"budget": "none", **found[0].before}
    return pd.DataFrame([dense, *({"budget": one.budget, **one.after} for one in found)])


def _said(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
