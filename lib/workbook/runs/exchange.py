"""Run folders from one machine to another: zip parts with a manifest, merged whole or refused."""

import hashlib
import json
import zipfile
from datetime import datetime
from pathlib import Path

from lib import data, paths
from lib.workbook.runs import packed_weights, store

#: No part is larger than this, so that it passes through mail and copy limits.
PART_BYTES = 15_000_000

#: The most that one file of a run may hold once unpacked.
MOST_BYTES = 2**30

_MANIFEST = "manifest.json"
_NAMES = {*store.FILES, store.WEIGHTS, store.LOSSES}


def export(to: Path, *, dataset: str, since: datetime | None = None) -> list[Path]:
    """Packs a data set's finished runs into ``to``/runs-000.zip, …, each at most 15 MB.

    With ``since``, only the runs that finished then or later. Weights that lie apart stay behind,
    as they do when run folders are committed. Raises ``ValueError`` where there is nothing to
    export, where a run is damaged, or where one alone is larger than a part.
    """
    parts, size = [[]], 0
    for run in store.finished(dataset):
        if since and datetime.fromisoformat(run.result["finished"]) < since:
            continue
        names = sorted({*_travelling(run.result), "result.json"})
        files = {f"{run.id}/{name}": (run.folder / name).read_bytes() for name in names}
        more = sum(len(content) + 200 for content in files.values())
        if more > PART_BYTES:
            raise ValueError(f"{run.folder} has {more:,} bytes, more than a part's {PART_BYTES:,}")
        if size + more > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(files)
        size += more
    if not parts[0]:
        raise ValueError(f"no finished run of {dataset!r} to export in {paths.runs(dataset)}")
    to.mkdir(parents=True, exist_ok=True)
    return [_write_part(to / f"runs-{i:03}.zip", part) for i, part in enumerate(parts)]


def merge(parts: list[Path]) -> list[str]:
    """Adds the runs of exported parts to the results, and returns the ids of those that are new.

    Every part is read and checked before anything is written: a damaged one raises ``ValueError``
    and nothing is changed. A run that is there already must be the same, or is refused likewise.
    """
    contents: dict[Path, dict[str, bytes]] = {}
    for part in parts:
        for id, files in _read_part(part).items():
            folder = _destination(part, id, files)
            if contents.setdefault(folder, files) != files:
                raise ValueError(f"{part} has a run {id} that differs from another part's")
    new = {}
    for folder, files in contents.items():
        if not store.present(folder):
            new[folder] = files
        elif store.read(folder).result["files"] != json.loads(files["result.json"])["files"]:
            raise ValueError(f"{folder} is there already and differs: remove one of the two")
    for folder, files in new.items():
        store.install(folder, files)
    return [folder.name for folder in new]


def _write_part(file: Path, part: list[dict[str, bytes]]) -> Path:
    files = {name: content for run in part for name, content in run.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_MANIFEST, json.dumps(store.digests(files), indent=1))
        for name, content in files.items():
            archive.writestr(name, content)
    return file


def _read_part(part: Path) -> dict[str, dict[str, bytes]]:
    """Run id → file name → content, every byte checked against the manifest."""
    try:
        with zipfile.ZipFile(part) as archive:
            oversized = [i.filename for i in archive.infolist() if i.file_size > MOST_BYTES]
            if oversized:
                raise ValueError(f"{oversized[0]} would unpack to over {MOST_BYTES:,} bytes")
            digests = json.loads(archive.read(_MANIFEST))
            found: dict[str, dict[str, bytes]] = {}
            for name, digest in digests.items():
                content = archive.read(name)
                if hashlib.sha256(content).hexdigest() != digest:
                    raise ValueError(f"{name} is not what the manifest says")
                id, _, file = name.partition("/")
                found.setdefault(id, {})[file] = content
    except Exception as error:  # zipfile, zlib, bz2, lzma and json each have their own
        raise ValueError(f"{part} is damaged, nothing was merged: {error}") from error
    return found


def _destination(part: Path, id: str, files: dict[str, bytes]) -> Path:
    """Where a run belongs, by its own account; a forged name cannot lead out of the results."""
    damaged = ValueError(f"{part} is damaged, nothing was merged: {id!r} is no whole run")
    if "result.json" not in files or not id or id.startswith(".") or Path(id).name != id:
        raise damaged
    digests = store.digests(files)
    del digests["result.json"]
    try:
        result = json.loads(files["result.json"])
        whole = set(store.FILES) <= result["files"].keys() <= _NAMES
        claims = (whole, result["id"], _travelling(result), result["dataset"] in data.NAMES)
    except packed_weights.MALFORMED:
        raise damaged from None
    if claims != (True, id, digests, True):
        raise damaged
    return paths.runs(result["dataset"]) / id


def _travelling(result: dict) -> dict[str, str]:
    """The SHA-256 of each file of a run that travels: all but weights that lie apart."""
    apart = store.WEIGHTS if result["weights_apart"] else None
    return {name: digest for name, digest in result["files"].items() if name != apart}
