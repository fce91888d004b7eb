"""Checkpoints of unfinished runs: two generations, each with its own checksum."""

import hashlib
import io
import os
import warnings

import torch

from lib import paths
from lib.workbook.runs import lookup

_DIGEST = hashlib.sha256().digest_size


class Checkpoint:
    """The checkpoint of the run ``id``, whatever its slug: the newest state, and the one before it.

    A file is the SHA-256 of what follows, then what ``torch.save`` wrote; it is read with
    ``weights_only=True``, so nothing in it is executed.
    """

    def __init__(self, id: str):
        folder = paths.checkpoints()
        self.file = folder / f"{lookup.kept_as(folder, id)}.pt"
        self.previous = self.file.with_suffix(".previous.pt")
        self.lock = self.file.with_suffix(".lock")

    def exists(self) -> bool:
        return self.file.exists() or self.previous.exists()

    def save(self, state: dict) -> None:
        """Writes ``state`` beside the last one; a kill at any moment leaves one of them whole."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        partial = self.file.with_suffix(".partial")
        partial.write_bytes(hashlib.sha256(payload).digest() + payload)
        if self.file.exists():
            os.replace(self.file, self.previous)
        os.replace(partial, self.file)

    def load(self, *, map_location: torch.device | str = "cpu") -> dict | None:
        """The newest whole state, or ``None`` where there is no checkpoint.

        A damaged newest file is refused with a warning and the previous one used. Raises
        ``ValueError`` when every file there is damaged.
        """
        files = [file for file in (self.file, self.previous) if file.exists()]
        for file in files:
            content = file.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                payload = io.BytesIO(content[_DIGEST:])
                return torch.load(payload, map_location=map_location, weights_only=True)
            warnings.warn(f"the checkpoint {file} is damaged and not used", stacklevel=2)
        if files:
            names = " and ".join(str(file) for file in files)
            raise ValueError(f"{names} damaged: delete to start this run again")
        return None

    def delete(self) -> None:
        for file in (self.file, self.previous):
            file.unlink(missing_ok=True)
