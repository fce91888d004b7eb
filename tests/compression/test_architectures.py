"""Networks of several families under a budget of each kind, each counted by what stands here."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, ResNet

import lib
from lib import archive
from lib.layers import compressible
from lib.structured import prunable, remove_filters


class Reader(nn.Module):
    """Reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.out = nn.LSTM(32, 24, batch_first=True), nn.Linear(24, 10)

    def forward(self, x):
        return self.out(self.rows(x.mean(1))[0][:, -1])


class UNet(nn.Module):
    """Halves an image, doubles it again by a transposed convolution, beside what it was."""

    def __init__(self):
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm, self.up = nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        first = functional.relu(self.first(x))
        inner = functional.relu(self.norm(self.down(first)))
        return self.last(torch.cat([first, functional.relu(self.up(inner))], 1))


class TwoHeads(nn.Module):
    """A class, and whether it is five or more."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        )
        self.which, self.large = nn.Linear(64, 10), nn.Linear(64, 1)

    def forward(self, x):
        features = self.body(x)
        return self.which(features), self.large(features)


def of_both(outputs, targets):
    which, large = outputs
    as_float = (targets >= 5).float()
    return functional.cross_entropy(which, targets) + functional.binary_cross_entropy_with_logits(
        large[:, 0], as_float
    )


def residual():
    """torchvision's ResNet with four filters inside each block, so that it is small."""
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    inner = {name: range(4) for name in prunable(model)}
    return remove_filters(model, inner, input_shape=(3, 32, 32))


def transformer():
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return VisionTransformer(image_size=32, patch_size=8, num_classes=10, **sizes)


#: Name → the network, its loss, whether targets are the images, and the least share of its MACs.
NETWORKS = {
    "torchvision's ResNet": (residual, None, False, 0.9),
    "torchvision's ViT": (transformer, None, False, 0.8),
    "an LSTM": (Reader, None, False, 0.5),
    "a U-Net": (UNet, functional.mse_loss, True, 0.5),
    "two outputs": (TwoHeads, of_both, False, 0.5),
}


def macs(model, x):
    """Multiply-accumulates of an item, layer by layer."""
    total, hooks = [0], []

    def note(module, inputs, outputs):
        if isinstance(module, nn.LSTM):
            total[0] += inputs[0].shape[1] * sum(
                w.numel() for w in module.parameters() if w.dim() > 1
            )
        elif isinstance(module, nn.MultiheadAttention):
            count = inputs[0].shape[1]
            total[0] += count * (module.in_proj_weight.numel() + module.out_proj.weight.numel())
            total[0] += 2 * count**2 * module.embed_dim
        elif isinstance(module, nn.ConvTranspose2d):
            total[0] += inputs[0].numel() * module.weight[0].numel()
        else:
            total[0] += outputs.numel() * module.weight[0].numel()

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LSTM, nn.MultiheadAttention)
    for module in model.modules():
        if isinstance(module, kinds):
            hooks.append(module.register_forward_hook(note))
    with torch.no_grad():
        model.eval()(x[:1])
    for hook in hooks:
        hook.remove()
    return total[0]


def bits(weights):
    """max(1, ⌈log₂ distinct nonzero values⌉) for each nonzero weight, 32 beyond 256 values."""
    total = 0
    for weight in weights:
        kept = weight[weight != 0]
        levels = len(np.unique(kept))
        total += len(kept) * (32 if levels > 256 else max(1, math.ceil(math.log2(max(1, levels)))))
    return total


@pytest.mark.parametrize("kind", ["B", "bits", "%", "MACs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_budget_of_each_kind_is_met(name, kind, tmp_path):
    make, loss, themselves, least = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    x, y = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))
    data = list(zip(x.split(16), (x if themselves else y).split(16), strict=True))
    weights = sum(w.numel() for w in compressible(model).values())
    amount = {
        "B": len(archive.encode(model)) // 4,
        "bits": 2 * weights,
        "%": 20,
        "MACs": int(least * macs(model, x)),
    }[kind]
    found = lib.compress(model, data, f"{amount} {kind}", loss=loss, epochs=2, quiet=True, lr=0.01)
    written = found.write(tmp_path / "net.cnet")
    read = [
        archive.read(tmp_path / "net.cnet").state[f"{name}.weight"].numpy()
        for name in compressible(found.model)
    ]
    spent = {
        "B": written,
        "bits": bits(read),
        "%": 100 * sum(np.count_nonzero(w) for w in read) / weights,
        "MACs": macs(found.model, x),
    }[kind]
    assert 0 < spent <= amount
    assert found.before["macs"] == macs(model, x)
    again = lib.load(tmp_path / "net.cnet", into=make())
    with torch.no_grad():
        outputs = _parts(again(x)), _parts(found.model(x))
    for mine, given in zip(*outputs, strict=True):
        assert torch.allclose(mine, given, atol=1e-5)


def _parts(outputs):
    return outputs if isinstance(outputs, tuple) else [outputs]
