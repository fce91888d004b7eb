"""What ``lib.compress`` returns: a smaller network, its file, and what it was before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from lib import archive


@dataclass(frozen=True)
class Compressed:
    """A compressed network: ``model`` (in evaluation mode), and the file it makes.

    ``before`` and ``after`` hold ``loss``, ``accuracy`` (``None`` where nothing says what is
    right), ``bytes`` (of float32 before, of the file after), ``kept`` weights and ``macs``
    (``None`` where they cannot be counted). ``layers`` is the file's table, a row a tensor.
    ``left_alone`` says which weights were not compressed, and why; ``method`` is what compressed.
    ``on_training_data`` is whether loss and accuracy are of the training data, which say little of
    others; ``interrupted`` whether Ctrl-C ended training early. ``notes`` say what else a reader
    should know, a sentence each.
    """

    model: nn.Module
    content: bytes
    budget: str
    method: str
    before: dict[str, float | None]
    after: dict[str, float | None]
    layers: pd.DataFrame
    left_alone: dict[str, str]
    notes: list[str] = field(default_factory=list)
    on_training_data: bool = False
    interrupted: bool = False

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
        of = " (training data)" if self.on_training_data else ""
        index = [f"{name}{of}" if name in ("loss", "accuracy") else name for name in known]
        return tensors, pd.DataFrame(said, index=index)

    def _lines(self) -> list[str]:
        """What is said beside the tables."""
        alone = [f"left alone: {name}, {reason}" for name, reason in self.left_alone.items()]
        return [*alone, *self.notes]

    def __str__(self) -> str:
        tensors, whole = self.tables()
        lines = [f"budget: {self.budget}", tensors.to_string(index=False), "", whole.to_string()]
        return "\n".join([*lines, *self._lines()])

    def _repr_html_(self) -> str:
        tensors, whole = self.tables()
        lines = [f"budget: {self.budget}", *self._lines()]
        said = "".join(f"<p>{escape(line)}</p>" for line in lines)
        return whole.to_html() + tensors.to_html(index=False) + said


def curve(found: Sequence[Compressed]) -> pd.DataFrame:
    """Size against accuracy: a row a budget, the dense network first."""
    dense = {"budget": "none", **found[0].before}
    return pd.DataFrame([dense, *({"budget": one.budget, **one.after} for one in found)])


def _said(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
