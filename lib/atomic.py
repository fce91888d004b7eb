"""Files that are whole or as they were."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Writes ``content`` beside ``path``, then renames it: an interruption leaves what was there.

    Raises ``OSError`` where it cannot be written; nothing is left behind then.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
