"""Commands about files: what they print, what they write, how they refuse."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import archive, networks


@pytest.fixture
def packed(trained, tmp_path, said):
    """The file of a finished run."""
    file = tmp_path / "tiny.cnet"
    said("pack", trained.folder, "--to", file)
    assert file.stat().st_size == trained.result["file_bytes"]
    return file


def test_inspect_itemises_the_whole_file(packed, said, tmp_path):
    first, heading, *rows = said("inspect", packed, "--picture", tmp_path / "a.png")
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


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_extract_then_pack_is_the_same_file(packed, trained, tmp_path, said, ending):
    out, back = tmp_path / f"a{ending}", tmp_path / "back.cnet"
    said("extract", packed, "--to", out)
    state = load_file(out) if ending == ".safetensors" else torch.load(out, weights_only=True)
    wanted = trained.model().state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    named = ["--network", "lenet5"] if ending == ".pt" else []
    said("pack", out, "--to", back, *named)
    content, again = packed.read_bytes(), back.read_bytes()
    if ending == ".pt":  # which says nothing of where the network came from
        assert len(again) == len(content)
    else:
        assert again == content


def test_weights_of_another_program_are_put_in_the_networks_order(tmp_path, said, refused):
    torch.manual_seed(0)
    model = networks.build("lenet300", classes=5)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    pack = ["pack", tmp_path / "a.safetensors", "--network", "lenet300", "--to"]
    assert "say --classes 5" in refused(*pack, tmp_path / "a.cnet")
    said(*pack, tmp_path / "a.cnet", "--classes", 5)
    found = archive.read(tmp_path / "a.cnet")
    assert (found.network, found.classes, found.channels) == ("lenet300", 5, 1)
    assert [*found.state] == [*model.state_dict()]


def test_a_network_without_a_name_is_packed_and_read(tmp_path, said, refused):
    torch.save({"w": torch.ones(4, 4)}, tmp_path / "a.pt")
    said("pack", tmp_path / "a.pt", "--to", tmp_path / "a.cnet")
    assert said("inspect", tmp_path / "a.cnet")[0].startswith("a network without a name")
    line = refused("evaluate", tmp_path / "a.cnet", "--dataset", "digits")
    assert "names no network" in line


def test_evaluate_says_what_the_run_says(packed, trained, said):
    lines = said("evaluate", packed, "--dataset", "digits")
    found, result = dict(line.split(maxsplit=1) for line in lines), trained.result
    assert found["accuracy"].startswith(f"{result['accuracy']:.2%}, ")
    assert found["nominal"] == f"rate  {result['nominal_rate']:,.1f}×"
    assert found["entropy"] == f"rate  {result['entropy_rate']:,.1f}×"
    assert found["MACs"] == f"{result['macs']:,} an image"
    assert found["file"].startswith(f"{result['file_bytes']:,} bytes, of 1,724,320 ")


@pytest.mark.parametrize(
    ("classes", "channels", "message"),
    [(7, 1, "7 classes apart, digits has 10"), (10, 3, "reads no images of 1×28×28")],
)
def test_a_network_of_other_images_is_not_evaluated(tmp_path, refused, classes, channels, message):
    kind = {"classes": classes, "channels": channels}
    model = networks.build("lenet5", **kind)
    archive.write(tmp_path / "a.cnet", model, network="lenet5", **kind)
    assert message in refused("evaluate", tmp_path / "a.cnet", "--dataset", "digits")


def test_nothing_is_overwritten_unless_told_to(packed, trained, said, refused, tmp_path):
    there, picture = tmp_path / "a.pt", tmp_path / "a.png"
    for file in (there, picture):
        file.write_bytes(b"mine")
    for command in (
        ("extract", packed, "--to", there),
        ("inspect", packed, "--picture", picture),
        ("pack", trained.folder, "--to", packed),
    ):
        assert "is there already" in refused(*command)
    assert there.read_bytes() == picture.read_bytes() == b"mine"
    said("extract", packed, "--to", there, "--overwrite")
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
        (["inspect", "good.cnet", "--picture", "a.gif"], "must end in .png"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    results, tmp_path, monkeypatch, refused, arguments, message
):
    monkeypatch.chdir(tmp_path)
    model = networks.build("lenet5")
    archive.write(tmp_path / "good.cnet", model, network="lenet5", classes=10, channels=1)
    (tmp_path / "damaged.cnet").write_bytes((tmp_path / "good.cnet").read_bytes()[:-1])
    torch.save(model.state_dict(), tmp_path / "good.pt")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(*arguments)
    assert sorted(tmp_path.rglob("*")) == before
