"""What another machine computed comes back byte for byte, or is refused and nothing changes."""

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from lib.workbook import runs

REFUSED = "is damaged, nothing was merged"


def tree(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def runs_of(folder):
    """What travels: a control's weights lie beside the run folders, and stay behind."""
    return {name: content for name, content in tree(folder).items() if name.startswith("runs/")}


@pytest.fixture
def exported(trained, results):
    """A part with three runs, and results that hold none of them any more."""
    (part,) = runs.exchange.export(results / "out", dataset="digits")
    shutil.rmtree(results / "digits")
    return part


def test_a_trial_travels_with_its_losses(results, tiny):
    trial = runs.get(replace(tiny.parent, held_out=True), 0, device="cpu", threads=1, quiet=True)
    parts = runs.exchange.export(results / "out", dataset="digits")
    losses = trial.losses
    shutil.rmtree(trial.folder)
    assert runs.exchange.merge(parts) == [trial.id]
    assert (runs.read(trial.folder).losses == losses).all()


@pytest.fixture
def forge(exported):
    """Writes the part anew, with other files, names or digests."""
    with zipfile.ZipFile(exported) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    del files["manifest.json"]

    def write(changed, manifest=None):
        with zipfile.ZipFile(exported, "w") as archive:
            digests = {name: hashlib.sha256(c).hexdigest() for name, c in changed.items()}
            archive.writestr("manifest.json", json.dumps(manifest or digests))
            for name, content in changed.items():
                archive.writestr(name, content)

    return files, write


def refused(part, results, *, message=REFUSED, named=None):
    before = tree(results)
    with pytest.raises(ValueError, match=message) as error:
        runs.exchange.merge([part])
    assert (named or str(part)) in str(error.value)
    assert tree(results) == before


def test_a_round_trip_gives_the_same_bytes(trained, results):
    before = runs_of(results / "digits")
    parts = runs.exchange.export(results / "out", dataset="digits")
    ids = sorted(run.id for run in runs.finished("digits"))
    shutil.rmtree(results / "digits")
    assert sorted(runs.exchange.merge(parts)) == ids
    assert runs_of(results / "digits") == before
    assert runs.exchange.merge(parts) == []  # all there, all the same
    assert runs_of(results / "digits") == before


def test_parts_stay_below_their_limit(trained, results, monkeypatch):
    before = runs_of(results / "digits")
    largest = max(sum(map(len, tree(run.folder).values())) for run in runs.finished("digits"))
    monkeypatch.setattr(runs.exchange, "PART_BYTES", largest + 3_000)
    parts = runs.exchange.export(results / "out", dataset="digits")
    assert len(parts) > 1
    assert all(part.stat().st_size <= runs.exchange.PART_BYTES for part in parts)
    shutil.rmtree(results / "digits")
    assert len(runs.exchange.merge(parts)) == 3
    assert runs_of(results / "digits") == before

    monkeypatch.setattr(runs.exchange, "PART_BYTES", largest - 1)
    with pytest.raises(ValueError, match="more than a part's"):
        runs.exchange.export(results / "out", dataset="digits")


def test_only_what_finished_since(trained, results):
    finished = max(run.result["finished"] for run in runs.finished("digits"))
    moment = datetime.fromisoformat(finished)
    assert runs.exchange.export(results / "out", dataset="digits", since=moment)
    later = moment + timedelta(seconds=1)
    with pytest.raises(ValueError, match="no finished run of 'digits' to export"):
        runs.exchange.export(results / "out", dataset="digits", since=later)
    everything = moment - timedelta(days=1)
    (part,) = runs.exchange.export(results / "out", dataset="digits", since=everything)
    with zipfile.ZipFile(part) as archive:
        assert len(archive.namelist()) == 1 + 3 * 6 - 1  # the control's weights stay behind


def test_a_damaged_run_is_not_exported(trained, results):
    (trained.folder / "layers.csv").write_text("other")
    with pytest.raises(ValueError, match="is not the file that was written"):
        runs.exchange.export(results / "out", dataset="digits")
    assert not (results / "out").exists()


def test_a_flipped_byte_is_refused_or_harms_nothing(trained, results):
    """Flips in a date or a comment of the archive change no content, and may pass."""
    for key in ("parent", "control"):  # a small part is soon read
        shutil.rmtree(trained.folder.with_name(trained.result[key]))
    (exported,) = runs.exchange.export(results / "out", dataset="digits")
    whole, wanted = exported.read_bytes(), runs_of(results / "digits")
    shutil.rmtree(results / "digits")
    refusals = []
    places = [*range(60), *range(60, len(whole), len(whole) // 60), *range(-1500, 0, 5)]
    for i, place in enumerate(places):
        changed = bytearray(whole)
        changed[place] ^= 1 << i % 8
        exported.write_bytes(changed)
        try:
            runs.exchange.merge([exported])
            assert runs_of(results / "digits") == wanted
            shutil.rmtree(results / "digits")
        except ValueError as error:
            refusals.append(str(error))
        assert not (results / "digits").exists()
    assert len(refusals) > len(places) / 2
    assert all(str(exported) in refusal for refusal in refusals)


def test_what_is_no_whole_archive_is_refused(exported, results):
    content = exported.read_bytes()
    for length in (0, 1, 100, 10_000, -1):
        exported.write_bytes(content[:length])
        refused(exported, results)
    exported.write_text("<html>404</html>")
    refused(exported, results)
    refused(results / "absent.zip", results)
    refused(results, results)  # a folder


def test_a_good_part_before_a_bad_one_is_not_merged_either(exported, results):
    bad = exported.with_name("bad.zip")
    bad.write_bytes(exported.read_bytes()[:-100])
    before = tree(results)
    with pytest.raises(ValueError, match=f"{bad} {REFUSED}"):
        runs.exchange.merge([exported, bad])
    assert tree(results) == before


def test_a_missing_or_superfluous_file_is_refused(forge, exported, results):
    files, write = forge
    *_, last = files
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write({name: content for name, content in files.items() if name != last})
    refused(exported, results)
    write({name: content for name, content in files.items() if name != last}, digests)
    refused(exported, results)
    write(files | {last.replace("weights.safetensors", "sitecustomize.py"): b"import os"})
    refused(exported, results)


@pytest.mark.parametrize("id", ["../x", "/tmp/x", ".hidden", "..", ".", "", "a/b", "a\\..\\b"])
def test_a_forged_id_leads_nowhere(forge, exported, results, id):
    files, write = forge
    old = next(iter(files)).partition("/")[0]
    changed = {}
    for name, content in files.items():
        if name.startswith(f"{old}/"):
            name = f"{id}/{name.partition('/')[2]}"
            if name.endswith("/result.json"):
                content = json.dumps(json.loads(content) | {"id": id}).encode()
        changed[name] = content
    write(changed)
    if "\\" in id:  # an ordinary name on this system; it must only stay inside
        runs.exchange.merge([exported])
        assert (results / "digits" / "runs" / id).is_dir()
    else:
        refused(exported, results)


@pytest.mark.parametrize(
    "change",
    [
        *({"id": "another-s0"}, {"files": {}}, {"files": None}),
        *({"dataset": None}, {"dataset": "nonsense"}, {"dataset": ["digits"]}),
        *(b"", b"[]", b"null", b"\xff", b"{}"),
    ],
)
def test_a_result_that_does_not_fit_its_files_is_refused(forge, exported, results, change):
    files, write = forge
    name = next(name for name in files if name.endswith("result.json"))
    if isinstance(change, dict):
        change = json.dumps(json.loads(files[name]) | change).encode()
    write(files | {name: change})
    refused(exported, results)


@pytest.mark.parametrize("manifest", [[1], "text", {"a/b": 1}, {"manifest.json": "0"}])
def test_a_forged_manifest_is_refused(forge, exported, results, manifest):
    files, write = forge
    write(files, manifest)
    refused(exported, results)


def test_a_part_that_would_unpack_to_too_much_is_not_unpacked(exported, results, monkeypatch):
    monkeypatch.setattr(runs.exchange, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    refused(exported, results, message="would unpack to over 1,000,000 bytes")


def test_a_forged_size_is_refused(exported, results):
    """The directory says how much a file unpacks to; one that unpacks to more is not read on."""
    with zipfile.ZipFile(exported) as archive:
        name = next(i for i in archive.infolist() if i.filename.endswith("weights.safetensors"))
    content = bytearray(exported.read_bytes())
    place = content.rindex(name.filename.encode()) - 46  # its entry in the central directory
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 24 : place + 28] = (100).to_bytes(4, "little")
    exported.write_bytes(content)
    refused(exported, results)


def test_another_run_of_the_same_name_is_not_overwritten(forge, exported, results):
    """Neither one that another part has, nor one that is there."""
    files, write = forge
    good = exported.with_name("good.zip")
    shutil.copy(exported, good)
    name = next(name for name in files if name.endswith("history.csv"))
    id = name.partition("/")[0]
    changed = files | {name: files[name] + b"\n"}
    result = json.loads(files[f"{id}/result.json"])
    result["files"]["history.csv"] = hashlib.sha256(changed[name]).hexdigest()
    write(changed | {f"{id}/result.json": json.dumps(result).encode()})
    before = tree(results)
    with pytest.raises(ValueError, match=f"{id}.* differs"):
        runs.exchange.merge([good, exported])
    assert tree(results) == before
    assert len(runs.exchange.merge([good, good])) == 3
    refused(exported, results, message="is there already and differs", named=id)
