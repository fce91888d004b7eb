"""LC: learn and compress in turns, pulled together ever harder.

Carreira-Perpiñán and Idelbayev, "Learning-Compression" algorithms for neural net pruning (CVPR
2018). w are the network's weights, θ the compressed ones, λ the Lagrange multipliers.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.layers import compressible
from lib.optimizers.c_steps import COSTS, Part
from lib.projections import checks
from lib.training.method import Method, kept_by_layer, per_layer

#: With μ₀ of None, the share of its distance to θ that w moves in the first pulled L step: little,
#: or the first θ is the last (notebook 21).
FIRST_PULL = 0.01


class LC(Method):
    """min L(w) s.t. C(w) ≤ κ, or min L(w) + α·C(w), by alternating two steps while μ → ∞:

    - L step, ``epochs_per_step`` periods of SGD on L(w) + μ/2·‖w − θ − λ/μ‖²;
    - C step, θ = the projection of w − λ/μ; then λ ← λ − μ(w − θ), and μ ← ``growth``·μ.

    ``cost`` is one of ``COSTS``, which says what its ``amount`` is. ``scope`` is ``global``, over
    all layers together, or ``layer``, in each for itself; then ``amount`` may also be a list, one
    for each layer. Instead of these three, ``parts`` gives layers, one or several together, a cost
    each, ``{"conv1": Codebook(16), ("fc1", "fc2"): L0(0.05)}`` say; others are trained freely.
    ``mu`` is μ₀; with None the first L step is plain training, and μ₀ then such
    that the next, at the same learning rates, moves w a hundredth of the way to a θ that stands
    still. ``augmented`` is the augmented Lagrangian's method; without it λ = 0, the quadratic
    penalty. With a constant μ (``growth`` 1), ρ = μ, Z = θ and U = −λ/μ it is the ADMM of Zhang
    et al. (ECCV 2018) and Ye et al. (2018).

    The network that is left, and reported, is θ. A heuristic for a non-convex problem: θ is within
    its constraint, but never proven optimal. A step costs one pass over the weights more than SGD,
    a C step a few. SGD needs a learning rate below 2/μ, which a large final μ can demand.

    Raises ``ValueError`` for an unknown cost or scope, numbers out of range, a list of a global
    scope, and (from ``start``) one of another length, and a layer of ``parts`` that is not there or
    there twice.
    """

    STATE = ("theta", "multipliers", "anchor", "mu", "travel", "periods", "bounds")

    def __init__(
        self,
        parts: Mapping[str | tuple[str, ...], Part] | None = None,
        *,
        cost: str | None = None,
        amount: Any = None,
        mu: float | None = None,
        growth: float = 1.1,
        epochs_per_step: int = 1,
        scope: str = "global",
        augmented: bool = True,
    ):
        checks.one_of("scope", scope, ("global", "layer"))
        if mu is not None:
            checks.within("mu", mu, 0, above=True, remedy="or None to have it chosen")
        checks.within("growth", growth, 1, remedy="so that w and θ meet")
        checks.within("epochs_per_step", epochs_per_step, 1)
        if parts is not None and (cost, amount) != (None, None):
            raise ValueError("parts have costs and amounts of their own: give one or the other")
        self.parts: Any = parts
        if parts is None:
            checks.one_of("cost", cost, COSTS)
            made = COSTS[cost or ""]
            listed = made.listed(amount)
            if listed and scope == "global":
                raise ValueError("amount lists one for each layer: choose scope='layer'")
            self.parts = [made(one) for one in amount] if listed else made(amount)
        self.scope = scope
        self.first_mu, self.growth, self.augmented = mu, growth, augmented
        self.epochs_per_step = epochs_per_step

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        groups = self._groups()
        self.names = [name for name in self.names if name in set(chain(*groups))]
        layers = compressible(model)
        self.parameters = [layers[name] for name in self.names]
        self.w = [weight.detach() for weight in self.parameters]
        places = {name: place for place, name in enumerate(self.names)}
        self.groups = [([places[n] for n in names], part) for names, part in groups.items()]
        self.bounds = self._bounds()
        self.theta = [torch.zeros_like(w) for w in self.w]
        self.multipliers = [torch.zeros_like(w) for w in self.w]  # λ
        self.anchor = [torch.zeros_like(w) for w in self.w]  # θ + λ/μ, what the L step pulls to
        device = self.w[0].device
        self.mu = torch.tensor(float(self.first_mu or 0), device=device)
        self.travel = torch.zeros((), device=device)  # Σα of the L step
        self.periods = 0
        if self.first_mu is not None:
            self._c_step()

    def _groups(self) -> dict[tuple[str, ...], Part]:
        """The layers that are compressed together, and by what."""
        if isinstance(self.parts, Mapping):
            groups = {(k,) if isinstance(k, str) else k: part for k, part in self.parts.items()}
            for name, times in Counter(chain(*groups)).items():
                checks.one_of("layer", name, self.names)
                if times > 1:
                    raise ValueError(f"layer {name!r} has {times} costs: give it one")
            return groups
        if self.scope == "global":
            return {tuple(self.names): self.parts}
        parts: list[Any] = per_layer(self.parts, len(self.names), "amount")
        return {(name,): part for name, part in zip(self.names, parts, strict=True)}

    def _bounds(self) -> list[object]:
        """What limits each group of layers."""
        return [p.cost.bound([self.w[i] for i in places], p.amount) for places, p in self.groups]

    @property
    def then(self) -> str | None:  # type: ignore[override]
        """What trains on with all layers as they are left."""
        orders = ("held-zeros", "tune-codebooks", None)
        return max((part.cost.then for _, part in self.groups), key=orders.index)

    def penalty(self) -> Tensor:
        # μ/2·‖w − θ − λ/μ‖²
        return _Pull.apply(self.mu, self.anchor, *self.parameters)

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        self.travel.add_(lr)

    @torch.no_grad()
    def after_period(self) -> None:
        self.periods += 1
        if self.periods % self.epochs_per_step:
            return
        if self.mu == 0:
            # an L step of learning rates α leaves e^(−μΣα) of a distance: μ₀Σα is the first pull
            self.mu.copy_(FIRST_PULL / self.travel)
            self._c_step()
        else:
            self._c_step()
            if self.augmented:
                # λ ← λ − μ(w − θ)
                step = torch._foreach_mul(torch._foreach_sub(self.w, self.theta), self.mu)
                torch._foreach_sub_(self.multipliers, step)
            self.mu.mul_(self.growth)
        scaled = torch._foreach_div(self.multipliers, self.mu)
        torch._foreach_copy_(self.anchor, torch._foreach_add(self.theta, scaled))
        self.travel.zero_()

    def _c_step(self) -> None:
        # θ = Π(w − λ/μ)
        scaled = torch._foreach_div(self.multipliers, self.mu)
        target = torch._foreach_sub(self.w, scaled)
        mu = float(self.mu)
        for (places, part), bound in zip(self.groups, self.bounds, strict=True):
            projected = part.cost.project([target[i] for i in places], bound, mu)
            torch._foreach_copy_([self.theta[i] for i in places], projected)
        torch._foreach_copy_(self.anchor, self.theta)

    @torch.no_grad()
    def compressed(self) -> dict[str, Tensor] | None:
        """θ; None while there is none yet."""
        return dict(zip(self.names, self.theta, strict=True)) if self.mu > 0 else None

    @torch.no_grad()
    def finish(self) -> bool:
        """Leaves θ of the weights as they are now, also where training ended within an L step.

        Raises ``ValueError`` where it ended before μ₀ was chosen: there is no θ.
        """
        if self.mu == 0:
            raise ValueError(
                f"training ended after {self.periods} periods, before the first C step: have at "
                f"least {self.epochs_per_step}, or give μ₀"
            )
        if self.periods % self.epochs_per_step:
            self._c_step()
        torch._foreach_copy_(self.w, self.theta)
        return True

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """μ, the mean squared difference of w and θ, and the weights left, by layer."""
        weights = sum(w.numel() for w in self.w)
        squares = sum(d.double().square().sum() for d in torch._foreach_sub(self.w, self.theta))
        return {
            "mu": float(self.mu),
            "mse": float(squares) / weights,
            **kept_by_layer(self.names, self.theta),
        }


class _Pull(torch.autograd.Function):
    """μ/2·Σ‖w − a‖² over all layers, in a few calls for all of them, and its gradient μ(w − a)."""

    @staticmethod
    def forward(ctx, mu: Tensor, anchor: list[Tensor], *w: Tensor) -> Tensor:
        differences = torch._foreach_sub(w, anchor)
        ctx.save_for_backward(mu, *differences)
        return mu / 2 * torch.stack(torch._foreach_norm(differences)).square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        mu, *differences = ctx.saved_tensors
        return None, None, *torch._foreach_mul(differences, grad * mu)
