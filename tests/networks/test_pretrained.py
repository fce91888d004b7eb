"""Trained weights: from a file in every form, downloaded and checked, or refused in one line."""

import functools
import hashlib
import shutil
import subprocess
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from lib import networks
from lib.data import DataUnavailable
from lib.networks import pretrained
from lib.networks.authors import tensor_names
from lib.workbook.cli import main


@functools.cache
def state_of(name, classes=1000):
    """Weights and statistics of a network as if it had been trained; not to be changed."""
    torch.manual_seed(0)
    state = networks.build(name, classes=classes).state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_()
        elif key.endswith("num_batches_tracked"):
            value.fill_(450_360)
    return state


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    state_of.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder, and a home folder that nothing may write to."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("WORKBOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    yield tmp_path / "data" / "weights"
    assert not list(home.iterdir())


def same(model, state):
    found = model.state_dict()
    assert not model.training
    assert list(found) == list(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def as_the_authors(name, state):
    """By the library's names, of which some are checked by hand; their background is class 0."""
    theirs = {key: state[ours] for key, ours in tensor_names(name).items()}
    if name == "mobilenetv1":
        for key in ("fc.weight", "fc.bias"):
            theirs[key] = torch.cat([torch.full_like(theirs[key][:1], 9), theirs[key]])
    return theirs


#: Padding is layer 0 of MobileNetV1's blocks; the first block of a stage of ProxylessNAS has
#: number 0, 1, 5, 9, 13, 17 and 21, and the very first no expansion.
AUTHORS = {
    "mobilenetv1": {
        "model.0.1.weight": "stem.conv.weight",
        "model.1.2.bias": "blocks.0.depthwise.bn.bias",
        "model.13.4.weight": "blocks.12.pointwise.conv.weight",
        "model.13.5.running_var": "blocks.12.pointwise.bn.running_var",
        "fc.bias": "fc.bias",
    },
    "proxylessnas-mobile": {
        "first_conv.bn.weight": "stem.bn.weight",
        "blocks.0.mobile_inverted_conv.depth_conv.conv.weight": "stages.0.0.depthwise.conv.weight",
        "blocks.2.mobile_inverted_conv.inverted_bottleneck.bn.bias": "stages.1.1.expand.bn.bias",
        "blocks.5.mobile_inverted_conv.point_linear.conv.weight": "stages.2.0.project.conv.weight",
        "blocks.21.mobile_inverted_conv.point_linear.bn.weight": "stages.6.0.project.bn.weight",
        "feature_mix_layer.conv.weight": "mix.conv.weight",
        "classifier.linear.weight": "fc.weight",
    },
}


@pytest.mark.parametrize("wrapped", ["plain", "checkpoint", "parallel", "both"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".pth.tar"])
def test_every_form_of_a_file_gives_the_same_network(tmp_path, wrapped, ending):
    state = state_of("mobilenetv2", 5)
    file = tmp_path / f"weights{ending}"
    saved = OrderedDict(state)
    if wrapped in ("parallel", "both"):
        saved = OrderedDict({f"module.{key}": value for key, value in saved.items()})
    if ending == ".safetensors":
        save_file(saved, file)  # which holds tensors alone
    else:
        checkpoint = {"epoch": 90, "state_dict": saved, "optimizer": {"lr": 0.1}}
        torch.save(checkpoint if wrapped in ("checkpoint", "both") else saved, file)
    drawn = torch.get_rng_state()
    same(pretrained.load("mobilenetv2", file=file, classes=5), state)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", ["resnet18-imagenet", "mnasnet"])
def test_torchvisions_networks_are_read_from_a_file(tmp_path, name):
    state = state_of(name, 5)
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    same(pretrained.load(name, file=str(file), classes=5), state)


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_files_are_read(tmp_path, name):
    state = state_of(name)
    theirs = as_the_authors(name, state)
    assert AUTHORS[name].items() <= tensor_names(name).items()
    assert sorted(tensor_names(name).values()) == sorted(state)
    file = tmp_path / "theirs.pth.tar"
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}}, file)
    same(pretrained.load(name, file=file), state)


def test_counts_of_batches_may_be_missing(tmp_path):
    """PyTorch counts them since 0.4.1: older files do not."""
    state = dict(state_of("mobilenetv1", 5))
    counts = [key for key in state if key.endswith("num_batches_tracked")]
    torch.save({key: value for key, value in state.items() if key not in counts}, tmp_path / "a.pt")
    model = pretrained.load("mobilenetv1", file=tmp_path / "a.pt", classes=5)
    same(model, state | {key: torch.tensor(0) for key in counts})


def test_half_precision_is_read_as_floats(tmp_path):
    state = {
        key: value.half() if value.is_floating_point() else value
        for key, value in state_of("mobilenetv1", 5).items()
    }
    save_file(state, tmp_path / "a.safetensors")
    model = pretrained.load("mobilenetv1", file=tmp_path / "a.safetensors", classes=5)
    same(model, {key: v.float() if v.is_floating_point() else v for key, v in state.items()})


def test_tensors_that_share_memory_do_not_afterwards(tmp_path):
    state = dict(state_of("mobilenetv1", 5))
    state["blocks.7.pointwise.conv.weight"] = state["blocks.6.pointwise.conv.weight"]
    torch.save(state, tmp_path / "a.pt")
    model = pretrained.load("mobilenetv1", file=tmp_path / "a.pt", classes=5)
    with torch.no_grad():
        model.blocks[6].pointwise.conv.weight.zero_()
    assert model.blocks[7].pointwise.conv.weight.any()


# What is refused


def refused(match, name="mobilenetv1", error=ValueError, **options):
    with pytest.raises(error, match=match) as caught:
        pretrained.load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_without_weights_is_refused():
    said = refused("no trained weights of 'lenet5': choose one of", name="lenet5")
    assert all(name in said for name in networks.imagenet.NETWORKS)


def test_a_file_that_is_missing_or_of_another_kind_is_refused(tmp_path):
    refused(r"there is no file .*a\.pth", file=tmp_path / "a.pth")
    (tmp_path / "dir.pth").mkdir()
    refused(r"there is no file .*dir\.pth", file=tmp_path / "dir.pth")
    refused(r"a\.h5: its name must end in one of \.safetensors, ", file=tmp_path / "a.h5")


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no tensors", bytes(1000), None])
def test_a_damaged_file_is_refused(tmp_path, ending, content):
    file = tmp_path / f"a{ending}"
    (torch.save if ending == ".pth" else save_file)({"x": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:-500] if content is None else content)
    refused(rf"a\{ending} cannot be read: ", file=file)


def test_a_pickle_runs_no_code(tmp_path):
    torch.save({"model": subprocess.Popen}, tmp_path / "a.pth")
    refused(r"a\.pth cannot be read: ", file=tmp_path / "a.pth")


@pytest.mark.parametrize(
    "content", [torch.ones(3), [torch.ones(3)], {"fc.weight": 3}, {"state_dict": {"fc.weight": 3}}]
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    refused("holds no state dict: names and tensors", file=tmp_path / "a.pth")


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


def changed(key, value):
    return lambda: dict(state_of("mobilenetv1")) | {key: value}


#: Network, what is in the file of its weights, and what is said of it.
OTHERS = [
    ("mobilenetv2", lambda: state_of("mobilenetv2", 5), "tells 5 classes apart; 1,000"),
    # a background class is the authors' alone
    ("mobilenetv1", lambda: state_of("mobilenetv1", 1001), "tells 1,001 classes apart; 1,000"),
    (
        "mobilenetv1",
        lambda: without(as_the_authors("mobilenetv1", state_of("mobilenetv1")), "model.4.5.bias"),
        r"is no mobilenetv1: .*Missing key.* \"blocks.3.pointwise.bn.bias\"",
    ),
    ("mobilenetv1", changed("se.weight", torch.ones(1)), 'Unexpected key.* "se.weight"'),
    ("mnasnet", lambda: state_of("mobilenetv2"), 'is no mnasnet: .*Missing.* "layers.0.weight"'),
    ("alexnet", dict, 'Missing.* "features.0.weight"'),
    ("mobilenetv1", changed("fc.weight", torch.ones(1000, 7)), r"fc.weight: .*1000, 7.*1000, 1024"),
    ("mobilenetv1", changed("fc.weight", torch.tensor(1.0)), r"size mismatch for fc.weight: "),
    ("mobilenetv1", changed("stem.bn.weight", torch.ones(32).to_sparse()), '"stem.bn.weight"'),
]


@pytest.mark.filterwarnings("ignore:Sparse invariant")  # of torch.load, which checks them
@pytest.mark.parametrize(("name", "made", "said"), OTHERS, ids=[said for *_, said in OTHERS])
def test_other_tensors_are_named(tmp_path, name, made, said):
    torch.save(made(), tmp_path / "a.pth")
    refused(said, name, file=tmp_path / "a.pth")


# Downloads


def serve(monkeypatch, file: Path | None, seen: list | None = None):
    """``file`` instead of what is on the internet; nothing if there is none."""

    def download(url, destination, *args, **kwargs):
        if file is None:
            Path(destination).write_bytes(b"the beginning")
            raise URLError("no route to host\nat all")
        if seen is not None:
            seen.append(url)
        shutil.copy(file, destination)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def digest(monkeypatch, name, value):
    """Makes ``value`` the hash that the file of ``name`` must have."""
    found = pretrained.PUBLISHED[name]
    monkeypatch.setitem(pretrained.PUBLISHED, name, replace(found, digest=value))


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv1"])
def test_weights_are_downloaded_once_and_checked_every_time(folder, tmp_path, monkeypatch, name):
    state, seen = state_of(name), []
    torch.save(state, tmp_path / "there.pth")
    content = (tmp_path / "there.pth").read_bytes()
    hashed = git_name(content) if name == "mobilenetv1" else hashlib.sha256(content).hexdigest()[:8]
    digest(monkeypatch, name, hashed)
    serve(monkeypatch, tmp_path / "there.pth", seen)
    for _ in range(2):
        same(pretrained.load(name), state)
    (file,) = folder.iterdir()
    assert file.name == pretrained.PUBLISHED[name].url.rpartition("/")[2]
    assert len(seen) == 1
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    file.write_bytes(damaged)
    refused(f"{file.name} is not the file that .*: delete it", name, DataUnavailable)
    file.unlink()
    same(pretrained.load(name), state)


@pytest.mark.parametrize("name", networks.imagenet.NETWORKS)
def test_without_the_internet_it_says_which_file_to_put_where(folder, monkeypatch, name):
    serve(monkeypatch, None)
    said = refused("could not be downloaded .*no route to host", name, DataUnavailable)
    found = pretrained.PUBLISHED[name]
    assert f"put {found.url} into {folder}" in said
    assert str(folder / found.url.rpartition("/")[2]) in said
    assert not list(folder.iterdir())


def test_fetch_gets_all_of_them_once(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "there.pth").write_bytes(b"weights")
    content, seen = (tmp_path / "there.pth").read_bytes(), []
    serve(monkeypatch, tmp_path / "there.pth", seen)
    monkeypatch.setattr(pretrained, "_is_right", lambda file, _: file.read_bytes() == content)
    for _ in range(2):
        assert main(["fetch", "weights"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in lines] == list(pretrained.PUBLISHED)
        assert all(line.endswith(", 7 bytes") for line in lines)
    assert seen == [pretrained.PUBLISHED[name].url for name in pretrained.PUBLISHED]
    serve(monkeypatch, None)
    pretrained.PUBLISHED["mnasnet"].file.unlink()
    assert main(["fetch", "weights"]) == 1
    assert "the weights of mnasnet are not in" in capsys.readouterr().err


def test_a_download_that_is_damaged_is_not_kept(folder, tmp_path, monkeypatch):
    torch.save(state_of("mobilenetv1"), tmp_path / "other.pth")
    serve(monkeypatch, tmp_path / "other.pth")
    refused("its hash is not the one expected", "mobilenetv1", DataUnavailable)
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_is_reported(folder, monkeypatch):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file in its place")
    refused("could not be downloaded", "mobilenetv1", DataUnavailable)


def test_every_network_of_imagenet_has_a_source_of_its_own():
    files = {pretrained.PUBLISHED[name].file for name in networks.imagenet.NETWORKS}
    assert len(files) == len(networks.imagenet.NETWORKS) == len(pretrained.PUBLISHED)


def test_the_name_of_a_file_in_git_is_gits(tmp_path):
    """``git hash-object`` of the text that Git's own documentation hashes."""
    (tmp_path / "a").write_bytes(b"test content\n")
    assert pretrained._is_right(tmp_path / "a", "d670460b4b4aece5915caf5c68d12f560a9fe3e4")
    assert not pretrained._is_right(tmp_path / "a", "d670460b4b4aece5915caf5c68d12f560a9fe3e5")
