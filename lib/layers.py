"""Which layers of a network are compressed."""

from torch import Tensor, nn

#: What is compressed.
LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Embedding),
)


def compressible(model: nn.Module) -> dict[str, Tensor]:
    """Layer name → weight of every convolution, linear layer and embedding, in their order.

    A weight that several layers share is listed once, under the first; one that is computed from
    other parameters (by weight normalisation, say) is not listed. Biases and normalisation are left
    out: they stay in 32 bits, as in the papers.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and "weight" in dict(module.named_parameters(recurse=False)):
            if id(module.weight) not in seen:
                found[name] = module.weight
            seen.add(id(module.weight))
    return found
