"""What is kept of a run, found by the hash and the seed in its name: its slug is for people."""

import functools
import os
import re
from collections import defaultdict
from pathlib import Path

#: A run folder, or one of the files of a checkpoint.
_KEPT = re.compile(r"([^.].*-([0-9a-f]{8}-s\d+))(\.previous)?(\.pt)?")


def kept_as(folder: Path, id: str) -> str:
    """The id under which ``folder`` keeps the run, ``id`` itself where it keeps none.

    Raises ``ValueError`` that names both where two have its hash and its seed.
    """
    hash_and_seed = "-".join(id.rsplit("-", 2)[1:])
    found = _listed(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}
    names = sorted(found.get(hash_and_seed, {id}))
    if len(names) > 1:
        both = " and ".join(str(folder / name) for name in names)
        raise ValueError(f"{both} are one run, {hash_and_seed}: remove one of them")
    return names[0]


@functools.lru_cache(maxsize=8)
def _listed(folder: Path, changed: int) -> dict[str, set[str]]:
    """Hash and seed → ids. A folder is listed anew only once it has ``changed``."""
    found = defaultdict(set)
    for match in filter(None, map(_KEPT.fullmatch, os.listdir(folder))):
        found[match[2]].add(match[1])
    return found
