"""To other formats and back, to the last bit."""

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib import archive, networks
from lib.archive import Archive, convert

STATE = {
    "second": torch.tensor([[1.5, -0.0], [float("nan"), float("-inf")]]),
    "first": torch.arange(5),
    "half": torch.randn(3, 2).to(torch.bfloat16),
    "flag": torch.tensor(True),
    "none": torch.empty(0, 3),
    "turned": torch.randn(4, 3).T,
}


def bits(state):
    """Names in order, dtypes, shapes and bytes."""
    return [
        (name, t.dtype, t.shape, t.reshape(-1).view(torch.uint8).tolist())
        for name, t in state.items()
    ]


@pytest.mark.parametrize("ending", convert.FORMATS)
def test_every_tensor_comes_back_to_the_bit_and_in_order(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    convert.save(Archive(STATE), file)
    assert bits(convert.load(file).state) == bits(STATE)


def test_a_packed_file_goes_through_safetensors_and_comes_back_byte_by_byte(tmp_path):
    torch.manual_seed(0)
    said = {"network": "resnet8", "classes": 7, "channels": 1, "provenance": bytes(range(8))}
    content = archive.encode(networks.build("resnet8", classes=7, channels=1), **said)
    convert.save(archive.decode(content), tmp_path / "a.safetensors")
    found = convert.load(tmp_path / "a.safetensors")
    assert {name: getattr(found, name) for name in said} == said
    assert archive.encode(found.state, **said) == content


@pytest.mark.parametrize("ending", convert.FORMATS)
def test_tensors_that_are_one_stay_one(tmp_path, ending):
    shared = torch.randn(100, 100)
    content = archive.encode({"a": shared, "b": shared})
    file = tmp_path / f"a{ending}"
    convert.save(archive.decode(content), file)
    assert file.stat().st_size < 1.2 * shared.nbytes
    assert archive.encode(convert.load(file).state) == content


def test_other_programs_read_it(tmp_path):
    state = {"a": torch.randn(2, 3), "b": torch.arange(4)}
    for ending in convert.FORMATS:
        convert.save(Archive(state), tmp_path / f"a{ending}")
    assert bits(dict(sorted(load_file(tmp_path / "a.safetensors").items()))) == bits(state)
    assert bits(torch.load(tmp_path / "a.pt", weights_only=True)) == bits(state)


def test_files_of_other_programs_say_no_network(tmp_path):
    state = {"a": torch.randn(2, 3)}
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt"})
    torch.save(state, tmp_path / "a.pt")
    for ending in convert.FORMATS:
        found = convert.load(tmp_path / f"a{ending}")
        assert bits(found.state) == bits(state)
        assert (found.network, found.provenance) == ("", bytes(8))


def test_another_ending_is_refused(tmp_path):
    for function in (convert.load, lambda path: convert.save(Archive(STATE), path)):
        with pytest.raises(ValueError, match=r"a\.npz: its name must end in \.safetensors or \.pt"):
            function(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_no_file_is_an_os_error(tmp_path):
    for ending in convert.FORMATS:
        with pytest.raises(OSError, match="No such file"):
            convert.load(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", convert.FORMATS)
@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, struct.pack("<Q", 2**40)])
def test_what_is_no_such_file_is_refused_by_name(tmp_path, ending, content):
    file = tmp_path / f"a{ending}"
    file.write_bytes(content)
    with pytest.raises(archive.Unreadable, match=f"a\\{ending} cannot be read"):
        convert.load(file)


@pytest.mark.parametrize(
    "said", [{"tensors": "[]"}, {"tensors": '{"a": "b"}'}, {"classes": "ten"}, {"provenance": "x"}]
)
def test_metadata_of_another_kind_are_refused(tmp_path, said):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata=said)
    with pytest.raises(archive.Unreadable, match="cannot be read"):
        convert.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1}, {"a": print}])
def test_a_pytorch_file_of_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(archive.Unreadable, match="cannot be read"):
        convert.load(tmp_path / "a.pt")
