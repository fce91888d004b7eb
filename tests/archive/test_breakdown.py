"""Every byte of a file is accounted for once."""

import pytest
import torch

from lib import archive, networks
from lib.layers import compressible


def sparse(name, **options):
    """A network of which a tenth of each layer is left, of four values."""
    torch.manual_seed(0)
    model = networks.build(name, **options)
    with torch.no_grad():
        for weight in compressible(model).values():
            kept = torch.rand_like(weight) < 0.1
            weight.copy_(torch.randint(1, 5, weight.shape) * kept)
    return model


@pytest.mark.parametrize(("network", "channels"), [("lenet5", 1), ("resnet8", 1)])
@pytest.mark.parametrize("named", [True, False])
def test_the_parts_sum_to_the_file(network, channels, named):
    model = sparse(network)
    said = {"network": network, "classes": 10, "channels": channels} if named else {}
    content = archive.encode(model, **said)
    parts = archive.parts(content)
    assert parts["total"].sum() == pytest.approx(len(content))
    assert parts["share"].sum() == pytest.approx(1)
    tensors = parts[parts["shape"].notna()].set_index("name")
    sizes = ["values", "positions", "codebook"]
    assert tensors["total"].to_numpy() == pytest.approx(tensors[sizes].sum(axis=1).to_numpy())
    assert tensors["weights"].sum() == sum(t.numel() for t in model.state_dict().values())
    for name, weight in compressible(model).items():
        row = tensors.loc[f"{name}.weight"]
        assert (row["levels"], row["bits"]) == (4, 2)
        assert row["kept"] == torch.count_nonzero(weight)
    # magic, version, provenance and length; the rest of the header is deflated
    rest = parts[parts["shape"].isna()].set_index("name")["total"]
    assert rest["header"] > 17
    assert rest["checksum"] == 4
    assert abs(rest["rounding"]) < 16


def test_vectors_are_one_row_with_the_levels_of_all():
    state = {
        "w": torch.randn(300, 4),
        "a": torch.tensor([1.0, 2.0] * 500),
        "b": torch.tensor([0.0, 3.0] * 500),
        "n": torch.arange(1000) % 2,
    }
    parts = archive.parts(archive.encode(state)).set_index("name")
    assert parts["levels"].dropna().to_dict() == {"w": 0, "a and 1 more": 3, "n": 1}
    assert parts["bits"].dropna().to_dict() == {"w": 32, "a and 1 more": 2, "n": 1}


def test_a_damaged_file_is_refused():
    content = archive.encode({"w": torch.ones(3, 3)})
    with pytest.raises(archive.Unreadable):
        archive.parts(content[:-1])
