"""MACs against sums by hand, of every kind of product; and of what is not known."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from lib import accounting
from lib.accounting import undisturbed
from lib.accounting.products import FORMULAS
from lib.layers import example

BATCH, T, D, H = 3, 5, 8, 4
SEQUENCE = (torch.zeros(BATCH, T, D),)

#: Of a block of attention: four projections and two products of all pairs.
ATTENTION = T * 4 * D * D + 2 * T * T * D


class Of(nn.Module):
    """A network that is one function."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(*inputs, *self.layers)


def heads(x, y, z):
    q, k, v = (t.view(len(t), T, 2, D // 2).transpose(1, 2) for t in (x, y, z))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grouped_heads(x):
    q = x.view(len(x), T, 4, 2).transpose(1, 2)
    k = x[..., :4].reshape(len(x), T, 2, 2).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)


def attention(x, layer):
    return layer(x, x, x)


def packed(x, layer):
    lengths = torch.full((len(x),), T)
    return layer(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))


def by_inference(x, layer):
    with torch.inference_mode():
        return layer(x)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def recurrent(gates, layers, directions):
    later = (layers - 1) * (directions * H + H)
    return T * directions * gates * H * (D + H + later)


IMAGE = (3, 8, 8)
CASES = {
    "convolution": (nn.Conv2d(3, 4, 3, stride=2, padding=1), IMAGE, 16 * 4 * 27),
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (6, 8, 8), 36 * 4 * 27),
    "one dimension": (nn.Conv1d(D, 4, 3, dilation=2), (torch.zeros(2, D, 9),), 5 * 4 * 3 * D),
    "three": (nn.Conv3d(2, 3, 2), (torch.zeros(2, 2, 3, 3, 3),), 8 * 3 * 16),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, 2, padding=1), IMAGE, 64 * 3 * 4 * 9),
    "linear": (nn.Linear(D, 7), SEQUENCE, T * D * 7),
    "linear in inference mode": (Of(by_inference, nn.Linear(D, 7)), SEQUENCE, T * D * 7),
    "matrices": (Of(lambda x: x @ x.mT), SEQUENCE, T * T * D),
    "in place": (
        Of(lambda x: torch.zeros(T, T).addmm_(x[0], x[0].T).add(torch.mv(x[0], x[0, 0]))),
        SEQUENCE,
        T * T * D + T * D,
    ),
    "out": (
        Of(lambda x: torch.mm(x[0], x[0].T, out=torch.zeros(T, T))),
        SEQUENCE,
        T * T * D,
    ),
    "einsum": (
        Of(lambda x: torch.einsum("btd,bsd,d->bts", x, x, x[0, 0])),
        SEQUENCE,
        T * T * D,
    ),
    "dot": (Of(lambda x: torch.dot(x[0, 0], x[0, 1])), SEQUENCE, D),
    "distances": (Of(lambda x: torch.cdist(x, x)), SEQUENCE, T * T * D),
    "bilinear": (nn.Bilinear(D, D, 7), SEQUENCE * 2, T * 7 * D * D),
    "attention of heads": (Of(heads), SEQUENCE * 3, 2 * T * T * D),
    "heads that share keys": (Of(grouped_heads), SEQUENCE, 2 * T * T * D),
    "attention without heads": (
        Of(lambda x: F.scaled_dot_product_attention(x, x, x)),
        SEQUENCE,
        2 * T * T * D,
    ),
    "multi-head attention": (
        Of(attention, nn.MultiheadAttention(D, 2, batch_first=True)),
        SEQUENCE,
        ATTENTION,
    ),
    "transformer": (encoder(), SEQUENCE, 2 * (ATTENTION + T * 2 * D * 16)),
    "transformer, norms first": (
        encoder(norm_first=True),
        SEQUENCE,
        2 * (ATTENTION + T * 2 * D * 16),
    ),
    "LSTM cell": (nn.LSTMCell(D, H), (torch.zeros(2, D),), 4 * H * (D + H)),
    "GRU of packed": (Of(packed, nn.GRU(D, H)), SEQUENCE, recurrent(3, 1, 1)),
    "LSTM of packed": (Of(packed, nn.LSTM(D, H)), SEQUENCE, recurrent(4, 1, 1)),
    "LSTM with projections": (
        nn.LSTM(D, H, proj_size=2, batch_first=True),
        SEQUENCE,
        T * (4 * H * (D + 2) + H * 2),
    ),
    "spectral norm": (
        parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, padding=1)),
        IMAGE,
        64 * 27 * 4,
    ),
    "orthogonal": (parametrizations.orthogonal(nn.Linear(D, D)), SEQUENCE, T * D * D),
    "weight norm": (parametrizations.weight_norm(nn.Linear(D, D)), SEQUENCE, T * D * D),
    "none at all": (Of(lambda x: F.softmax(x.relu().cumsum(1), -1)), SEQUENCE, 0),
}
for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
    for layers, both in ((1, False), (2, True)):
        model = kind(D, H, layers, bidirectional=both, batch_first=True)
        found = recurrent(gates, layers, 1 + both)
        CASES[f"{kind.__name__} of {layers}"] = (model, SEQUENCE, found)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    """Of one item, whatever is frozen, trained or in half the precision."""
    model, given, expected = CASES[name]
    model = copy.deepcopy(model)
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        assert accounting.macs(model.train(not frozen), given) == expected
        assert all(p.requires_grad is not frozen for p in model.parameters())
        assert all(m.training is not frozen for m in model.modules())


def test_the_attention_of_each_kernel():
    kernels = torch.nn.attention.SDPBackend
    for kernel in (kernels.MATH, kernels.FLASH_ATTENTION):
        with torch.nn.attention.sdpa_kernel(kernel):
            assert accounting.macs(Of(heads), SEQUENCE * 3) == 2 * T * T * D


def test_the_fused_kernel_of_a_gpu():
    """Each weight once for each step of each sequence, a layer's and a direction's apart."""
    weights = [torch.zeros(16, 8), torch.zeros(16, 4), torch.zeros(16), torch.zeros(16)] * 2
    found = FORMULAS["_cudnn_rnn"](torch.zeros(T, 1, D), weights, 4, None, torch.zeros(2, 1, H))
    assert found == recurrent(4, 1, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.linalg.inv(x @ x.mT),
        lambda x: torch.linalg.svdvals(x),
        lambda x: torch.sparse.mm(torch.eye(T).to_sparse(), x[0]),
    ],
)
def test_what_is_not_known_is_named(function):
    with pytest.raises(ValueError, match=r"the MACs of aten\.\w+") as error:
        accounting.macs(Of(function), SEQUENCE)
    assert "\n" not in str(error.value)


def test_an_operation_of_another_library():
    with torch.library._scoped_library("workbook_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
        with pytest.raises(ValueError, match=r"workbook_test\.twice"):
            accounting.macs(Of(lambda x: torch.ops.workbook_test.twice(x)), SEQUENCE)
        library.define("product(Tensor x) -> Tensor")
        library.impl("product", lambda x: x @ x.mT, "CompositeImplicitAutograd")
        found = accounting.macs(Of(lambda x: torch.ops.workbook_test.product(x)), SEQUENCE)
        assert found == T * T * D


class Keeps(nn.Module):
    """Everything that a forward pass may leave behind."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(D, D), nn.BatchNorm1d(T)
        self.log, self.cache = [], torch.zeros(2)
        self.register_buffer("count", torch.zeros(2))
        self.hook = self.layer.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.count += 1
        self.cache[0] += 1
        self.log.append(1)
        self.kept = self.norm(self.layer(x))
        return {"first": self.kept, "second": (F.dropout(self.kept), 3)}


def test_the_model_is_left_as_it_was():
    model = Keeps()
    model.norm.eval()
    state = copy.deepcopy(model.state_dict())
    for fail in (False, True):
        if fail:
            model.forward = lambda x: torch.linalg.inv(Keeps.forward(model, x)["first"])
        random = torch.get_rng_state()
        fused = torch.backends.mha.get_fastpath_enabled()
        if fail:
            with pytest.raises(ValueError, match="linalg_inv"):
                accounting.macs(model, (torch.zeros(2, T, D),))
        else:
            assert accounting.macs(model, SEQUENCE) == T * D * D
        assert not model.log
        assert not model.cache.any()
        assert not hasattr(model, "kept")
        assert list(model.layer._forward_hooks) == [model.hook.id]
        assert not model.layer._forward_pre_hooks
        assert model.training
        assert not model.norm.training
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
        assert torch.equal(random, torch.get_rng_state())
        assert torch.backends.mha.get_fastpath_enabled() is fused


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrapped_traced_and_compiled():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    expected = 36 * 27 * 4 + 288
    wrapped = [
        nn.DataParallel(model),
        torch.compile(model),
        nn.DataParallel(torch.compile(model)),
        nn.Sequential(torch.compile(model)),
        torch.jit.trace(model, torch.zeros(1, *IMAGE)),
        torch.jit.script(model),
    ]
    assert [accounting.macs(each, IMAGE) for each in wrapped] == [expected] * len(wrapped)


def test_macs_of_each_layer_and_of_the_rest():
    model = nn.Sequential(nn.Linear(D, D), nn.ReLU(), Of(attention, *[nn.MultiheadAttention(D, 2)]))
    model.append(Of(lambda x: x[0]))
    twice = model[0]
    model.insert(1, twice)
    found = accounting.counted(model, SEQUENCE, ["0", "3.layers.0"])
    # sequences come second in this attention: five of one
    assert found == {"0": 2 * T * D * D, "3.layers.0": T * 4 * D * D + 2 * T * D}


# Inputs


def test_an_image():
    model = nn.Conv2d(3, 4, 3).double()
    for given in (IMAGE, list(IMAGE), torch.Size(IMAGE)):
        (image,) = example(model, given).positional
        assert image.shape == (1, *IMAGE)
        assert image.dtype == torch.float64
        assert not image.any()


def test_example_inputs():
    model = nn.Linear(2, 2).half()
    tokens, mask, table = torch.arange(12).view(4, 3), torch.ones(4, 3), torch.ones(3, 3)
    found = example(model, (tokens, [mask, {"table": table}]), items=1)
    first, (second, third) = found.positional
    assert torch.equal(first, tokens[:1])
    assert (second.dtype, second.shape) == (torch.float16, (1, 3))
    assert third["table"].shape == (3, 3)
    assert (found.items, example(model, (tokens,)).items) == (1, 4)
    named = example(model, {"input": mask}, items=2)
    assert named.positional == ()
    assert named.named["input"].shape == (2, 3)
    # in a network of several dtypes the network says which
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert example(mixed, (mask.half(),)).positional[0].dtype == torch.float16


def test_normalisation_that_measures_each_batch():
    """It refuses a batch of one."""
    norm = nn.BatchNorm1d(7, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(3, 7, 8), nn.Flatten(), norm, nn.Linear(7, 2))
    assert accounting.macs(model, IMAGE) == 64 * 3 * 7 + 14
    assert accounting.macs(model, (torch.zeros(5, *IMAGE),)) == 64 * 3 * 7 + 14


def test_several_inputs_by_name():
    model = nn.Bilinear(D, 2, 3)
    given = {"input1": torch.zeros(4, D), "input2": torch.zeros(4, 2)}
    assert accounting.macs(model, given) == 3 * D * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 2), "is a Tensor"),
        (3, "is a int"),
        ((), "no tensor"),
        (("a",), "no tensor"),
        ((torch.zeros(0, 3),), "one item or more"),
        ((torch.tensor(1.0),), "one item or more"),
    ],
)
def test_other_inputs_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        example(nn.Linear(3, 2), given)


def test_undisturbed_inside():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)), nn.Dropout())
    with undisturbed(model):
        assert not model[1].training
        assert not torch.is_grad_enabled()
        assert model[0].weight is model[0].weight
    assert model[1].training
