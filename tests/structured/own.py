"""Networks that nobody listed, small; and MACs counted without the library's formulas."""

import copy

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib.layers import example


class Recurrent(nn.Module):
    """A classifier of sequences of tokens."""

    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.embed = nn.Embedding(40, 12)
        self.recur = kind(12, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (1 + options.get("bidirectional", False)), 4)

    def forward(self, tokens):
        return self.head(F.relu(self.recur(self.embed(tokens))[0][:, -1]))


def double(inputs, outputs):
    layers = []
    for read in (inputs, outputs):
        layers += [nn.Conv2d(read, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Concatenations, and transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([double(3, 8), double(8, 16), double(16, 32)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)])
        self.beside = nn.ModuleList([double(32, 16), double(16, 8)])
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        kept = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, block, skip in zip(self.up, self.beside, (kept[1], kept[0]), strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.out(x)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = double(3, 12)
        self.classes, self.hidden, self.box = nn.Linear(12, 4), nn.Linear(12, 20), nn.Linear(20, 3)

    def forward(self, x):
        y = self.body(x).mean((2, 3))
        return {"classes": self.classes(y), "box": (self.box(F.gelu(self.hidden(y))),)}


class Padded(nn.Module):
    """A block whose shortcut moves channels, by padding with zeros."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.beside = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(F.pad(x, (0, 0, 0, 0, self.beside, self.beside)) + y)


class Residual(nn.Module):
    """A CIFAR ResNet as the public ones are; its sums join where nothing moves."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Padded(8, 8, 1), Padded(8, 16, 2), Padded(16, 32, 2))
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))


class Mobile(nn.Module):
    """Depthwise convolutions, and products that join filters."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6()]
        for inputs, outputs in ((8, 12), (12, 16)):
            inner = 4 * inputs
            layers += [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)]
            layers += [nn.Hardswish(), nn.Conv2d(inner, inner, 3, 1, 1, groups=inner)]
            layers += [nn.BatchNorm2d(inner), nn.SiLU(), Squeeze(inner)]
            layers += [nn.Conv2d(inner, outputs, 1), nn.BatchNorm2d(outputs)]
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class Shuffled(nn.Module):
    """Channels split, joined and shuffled."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 1)
        self.units = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU()),
                *(nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.BatchNorm2d(12)),
                *(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.ReLU()),
            )
            for _ in range(2)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        x = self.first(x)
        for unit in self.units:
            a, b = x.chunk(2, 1)
            x = torch.cat([a, unit(b)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Attention(nn.Module):
    """A block of attention of one's own, its heads cut out of one product."""

    def __init__(self):
        super().__init__()
        self.patch, self.qkv, self.out = (
            nn.Conv2d(3, 16, 4, 4),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)
        self.a, self.b = nn.Linear(16, 96), nn.Linear(96, 16)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).view(len(x), -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((x + self.b(F.gelu(self.a(self.norm(x))))).mean(1))


class Encoder(nn.Module):
    """PyTorch's transformer, of tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 96, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 4)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


class Unflattened(nn.Sequential):
    def __init__(self):
        layers = (nn.Flatten(), nn.Linear(192, 64), nn.Unflatten(1, (4, 4, 4)), nn.Conv2d(4, 8, 3))
        super().__init__(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))


class Viewed(nn.Module):
    """Shapes written down where they are used, a sigmoid, a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 1, 1)
        self.c, self.d, self.e = nn.Linear(16 * 64, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x)))).view(-1, 16 * 64)
        return self.e(F.relu(self.d(F.relu(self.d(torch.sigmoid(self.c(x)))))))


def narrow():
    """torchvision's ResNet-18 with an eighth of the channels in each block."""
    model = torchvision.models.resnet18(num_classes=4, width_per_group=64)
    for layer in [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]:
        for size in ("in_channels", "out_channels", "num_features"):
            if getattr(layer, size, 0) > 3:
                setattr(layer, size, getattr(layer, size) // 8)
        for part in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(layer, part, None)
            if value is not None:
                cut = value[: len(value) // 8]
                cut = cut[:, : layer.in_channels] if cut.dim() > 1 else cut
                kept = cut.detach().clone()
                setattr(layer, part, nn.Parameter(kept) if "running" not in part else kept)
    model.fc = nn.Linear(64, 4)
    return model


def vit():
    options = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 128}
    return torchvision.models.VisionTransformer(32, 8, num_classes=4, **options)


TOKENS = (torch.arange(36).view(3, 12),)
SERIES = (torch.linspace(-1, 1, 3 * 2 * 32).view(3, 2, 32).sin(),)

#: Name → what makes it, what it reads.
OWN = {
    "resnet18": (narrow, (3, 32, 32)),
    "vit": (vit, (3, 32, 32)),
    "LSTM": (Recurrent, TOKENS),
    "LSTM, deep": (lambda: Recurrent(num_layers=2, bidirectional=True), TOKENS),
    "GRU": (lambda: Recurrent(nn.GRU, bidirectional=True), TOKENS),
    "RNN": (lambda: Recurrent(nn.RNN, num_layers=2), TOKENS),
    "U-Net": (UNet, (3, 8, 8)),
    "two outputs": (TwoOutputs, (3, 8, 8)),
    "residual": (Residual, (3, 16, 16)),
    "mobile": (Mobile, (3, 16, 16)),
    "densenet": (
        lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=4),
        (3, 32, 32),
    ),
    "shuffled": (Shuffled, (3, 16, 16)),
    "attention": (Attention, (3, 16, 16)),
    "encoder": (Encoder, TOKENS),
    "series": (
        lambda: nn.Sequential(
            *(nn.Conv1d(2, 12, 5), nn.BatchNorm1d(12), nn.PReLU(12), nn.Conv1d(12, 16, 3)),
            *(nn.InstanceNorm1d(16, affine=True), nn.ReLU(), nn.AdaptiveAvgPool1d(2)),
            *(nn.Flatten(), nn.Linear(32, 4)),
        ),
        SERIES,
    ),
    "no statistics": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
            *(nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8)),
            *(nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 4)),
        ),
        (3, 7, 7),
    ),
    "unflattened": (Unflattened, (3, 8, 8)),
    "viewed": (Viewed, (3, 8, 8)),
}


def network(name):
    """In float64, as if trained."""
    torch.manual_seed(0)
    make, given = OWN[name]
    return drawn(make().double()), given


@torch.no_grad()
def drawn(model):
    for module in model.modules():
        if hasattr(module, "running_mean") and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if hasattr(module, "running_mean") and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
        if isinstance(getattr(module, "bias", None), torch.Tensor):
            module.bias.normal_()
    return model


def inputs(model, given, count=3):
    torch.manual_seed(1)
    found = example(model, given, items=count)
    noisy = [x + torch.randn_like(x) if x.is_floating_point() else x for x in found.positional]
    return found._replace(positional=tuple(noisy))


def flat(found):
    """The tensors of any output, in a row of columns."""
    if isinstance(found, torch.Tensor):
        return found.flatten(1)
    values = found.values() if isinstance(found, dict) else found
    return torch.cat([flat(value) for value in values], 1)


@torch.no_grad()
def outputs(model, given):
    return flat(inputs(model, given).call(copy.deepcopy(model).eval()))


@torch.no_grad()
def macs(model, given):
    """All products by PyTorch's counter, made to see single ones of matrices."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    kernel = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    try:
        with kernel, FlopCounterMode(display=False) as counter:
            # two items: normalisation may measure them
            example(model, given, items=2).call(copy.deepcopy(model).eval())
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(True)
    return counter.get_total_flops() // 4
