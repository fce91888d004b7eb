"""Commands about files: what they print, what they write, how they refuse."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import archive, networks
from lib.workbook.cli import main


@pytest.fixture
def packed(trained, tmp_path):
    """The file of a finished run."""
    file = tmp_path / "tiny.cnet"
    assert main(["pack", str(trained.folder), "--to", str(file)]) == 0
    assert file.stat().st_size == trained.result["file_bytes"]
    return file


def refused(capsys, arguments):
    """The one line with which a command fails."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def test_inspect_itemises_the_whole_file(packed, capsys, tmp_path):
    capsys.readouterr()
    assert main(["inspect", str(packed), "--picture", str(tmp_path / "a.png")]) == 0
    first, heading, *rows = capsys.readouterr().out.splitlines()
    provenance = archive.read(packed).provenance.hex()
    assert first == f"lenet5, 10 classes, channels of an image: 1; provenance {provenance}"
    assert heading.split()[:2] == ["layer", "shape"]
    names = [row.split()[0] for row in rows]
    weights = [f"{layer}.weight" for layer in ("conv1", "conv2", "fc1", "fc2")]
    assert names == [*weights, "conv1.bias", "header", "checksum", "rounding", "file"]
    totals = [float(row.split()[-2].replace(",", "")) for row in rows]
    assert totals[-1] == packed.stat().st_size
    assert sum(totals[:-1]) == pytest.approx(totals[-1], abs=0.5)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_a_png(packed, capsys, tmp_path):
    line = refused(capsys, ["inspect", packed, "--picture", tmp_path / "a.gif"])
    assert "must end in .png" in line
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_extract_then_pack_is_the_same_file(packed, trained, tmp_path, ending):
    out, back = tmp_path / f"a{ending}", tmp_path / "back.cnet"
    assert main(["extract", str(packed), "--to", str(out)]) == 0
    state = load_file(out) if ending == ".safetensors" else torch.load(out, weights_only=True)
    wanted = trained.model().state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    named = ["--network", "lenet5"] if ending == ".pt" else []
    assert main(["pack", str(out), "--to", str(back), *named]) == 0
    content, again = packed.read_bytes(), back.read_bytes()
    if ending == ".pt":  # which says nothing of where the network came from
        assert len(again) == len(content)
    else:
        assert again == content


def test_weights_of_another_program_are_put_in_the_networks_order(tmp_path, capsys):
    torch.manual_seed(0)
    model = networks.build("lenet300", classes=5)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    pack = ["pack", str(tmp_path / "a.safetensors"), "--network", "lenet300", "--to"]
    assert "tells 5 classes apart: say --classes 5" in refused(capsys, [*pack, tmp_path / "a.cnet"])
    assert main([*pack, str(tmp_path / "a.cnet"), "--classes", "5"]) == 0
    found = archive.read(tmp_path / "a.cnet")
    assert (found.network, found.classes, found.channels) == ("lenet300", 5, 1)
    assert [*found.state] == [*model.state_dict()]


def test_a_network_without_a_name_is_packed_and_read(tmp_path, capsys):
    torch.save({"w": torch.ones(4, 4)}, tmp_path / "a.pt")
    assert main(["pack", str(tmp_path / "a.pt"), "--to", str(tmp_path / "a.cnet")]) == 0
    assert main(["inspect", str(tmp_path / "a.cnet")]) == 0
    assert "a network without a name" in capsys.readouterr().out
    line = refused(capsys, ["evaluate", tmp_path / "a.cnet", "--dataset", "digits"])
    assert "the file names no architecture" in line


def test_evaluate_says_what_the_run_says(packed, trained, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(packed), "--dataset", "digits"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["accuracy"].startswith(f"{trained.result['accuracy']:.2%}, ")
    assert said["nominal"] == f"rate  {trained.result['nominal_rate']:,.1f}×"
    assert said["entropy"] == f"rate  {trained.result['entropy_rate']:,.1f}×"
    assert said["MACs"] == f"{trained.result['macs']:,} an image"
    assert said["file"].startswith(f"{trained.result['file_bytes']:,} bytes, of 1,724,320 ")


@pytest.mark.parametrize(
    ("network", "classes", "channels", "message"),
    [
        ("lenet5", 7, 1, "tells 7 classes apart, digits has 10"),
        ("lenet5", 10, 3, "reads no images of 1×28×28"),
    ],
)
def test_a_network_of_other_images_is_not_evaluated(
    tmp_path, capsys, network, classes, channels, message
):
    said = {"network": network, "classes": classes, "channels": channels}
    model = networks.build(network, classes=classes, channels=channels)
    archive.write(tmp_path / "a.cnet", model, **said)
    line = refused(capsys, ["evaluate", tmp_path / "a.cnet", "--dataset", "digits"])
    assert message in line


def test_nothing_is_overwritten_unless_told_to(packed, trained, capsys, tmp_path):
    there = tmp_path / "a.pt"
    there.write_bytes(b"mine")
    picture = tmp_path / "a.png"
    picture.write_bytes(b"mine")
    for command in (
        ["extract", packed, "--to", there],
        ["inspect", packed, "--picture", picture],
        ["pack", trained.folder, "--to", packed],
    ):
        assert "is there already" in refused(capsys, command)
    assert there.read_bytes() == picture.read_bytes() == b"mine"
    assert main(["extract", str(packed), "--to", str(there), "--overwrite"]) == 0
    assert there.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "absent.cnet"], "No such file"),
        (["inspect", "damaged.cnet"], "damaged.cnet cannot be read: its checksum"),
        (["extract", "damaged.cnet", "--to", "out.pt"], "damaged.cnet cannot be read"),
        (["extract", "good.cnet", "--to", "out.npz"], "must end in .safetensors or .pt"),
        (["extract", "good.cnet", "--to", "absent/out.pt"], "No such file"),
        (["evaluate", "good.cnet", "--dataset", "svhn"], "unknown data set 'svhn'"),
        (["pack", "good.cnet", "--to", "out.cnet"], "must end in .safetensors or .pt"),
        (["pack", "good.pt", "--to", "out.bin"], "must end in .cnet"),
        (["pack", "good.pt", "--to", "out.cnet", "--classes", "3"], "name it with --network"),
        (["pack", "good.pt", "--to", "out.cnet", "--network", "lenet300"], "is not a lenet300"),
        (["pack", "empty", "--to", "out.cnet"], "is not whole"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    results, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    model = networks.build("lenet5")
    archive.write(tmp_path / "good.cnet", model, network="lenet5", classes=10, channels=1)
    (tmp_path / "damaged.cnet").write_bytes((tmp_path / "good.cnet").read_bytes()[:-1])
    torch.save(model.state_dict(), tmp_path / "good.pt")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(capsys, arguments)
    assert sorted(tmp_path.rglob("*")) == before
