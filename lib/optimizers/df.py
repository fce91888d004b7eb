"""DF: which filters stay, and the rank of each layer, learned together by gradient.

Eo, Kang, Rhee, "A Differentiable Framework for End-to-End Learning of Hybrid Structured
Compression". Weights are frozen; what moves is a number M for each filter (DML-S) and a threshold γ
for each layer (DTL-S):

    W_comp = SVT(φ_s(M)·W, γ)                     eq. 11, of 9 and 10
    min over M, γ of  L(W_comp) + λ(B − B_d)²     eq. 7

The network is built when training ends; a stage that trains it on usually follows.

Where this is not the paper to the letter: filters are counted by φ_s of eq. 8 (eq. 12 prints the
plain sigmoid), ranks by the masked spectrum (eq. 13 prints the whole one), M is clamped to [0, 1],
and μ rises per period (the paper: per iteration). What BatchNorm's statistics do meanwhile, and
what moves M and γ, the paper does not say. λ, a multiplier and the statistics are options.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib.layers import Given, as_given, weight_of
from lib.optimizers.df_followers import Followers
from lib.optimizers.df_stacks import LARGE, Stack
from lib.projections import checks
from lib.projections.svt import Problem, decompose, matricize, on_host, shrink, tensorize
from lib.structured import (
    become,
    choose_filters,
    costs,
    factor,
    least,
    nothing_may_leave,
    ranks_for_macs,
    remove_filters,
    within_budget,
)
from lib.training.method import Method

#: A threshold stays below σ₁: a layer of rank 0 would let nothing through.
LARGEST_THRESHOLD = 0.99

MODES = ("hybrid", "filters", "ranks")


class DF(Method):
    """min L(W_comp(M, γ)) + λ(B(M, γ) − B_d)²,  B the share of the dense network's MACs.

    A heuristic: a local minimum of a relaxation, rounded. Within the budget always, unless
    ``multiplier`` is off.

    Parameters
    ----------
    budget : MACs of one image, B_d times the dense network's.
    input_shape : (channels, height, width) of an image, or example inputs
        (:func:`lib.layers.example`).
    mode : ``hybrid``, ``filters`` (γ = 0 and no layer is factored) or ``ranks`` (no mask).
    scheme : of the matrices, 1 or 2 (``lib.projections.svt.matricize``).
    count : MACs of a layer in B. ``factored``: eq. 14, each in factors. ``built``: of the network
        that will be built, the cheaper of factors and whole; no rank is pressed on where whole is
        cheaper.
    penalty : λ. The paper's 1.
    multiplier : the method of multipliers, on ν(B − B_t) + λ(B − B_t)²: ν rises by 2λ(B − B_t) at
        every period, and B_t goes from what B is at first to B_d while μ goes half its way. What is
        then chosen is rounded so that the budget is used up and kept. Ours. Without it: λ
        alone, φ_s ≥ ½ and σ > γ as they come out, and the budget missed by |∂L/∂B|/2λ.
    start, beta, alpha : μ of the sigmoid, at first, what is added at every period, and at most.
        The paper's 2, 4 (ImageNet: 8) and 50. ``beta`` = 0 leaves the sigmoid as it is, Table 1's
        second row.
    straight_through : masks are 0 or 1, φ_s ≥ ½, and have the gradient of φ_s (Bengio, Léonard,
        Courville, 2013), ours. Small masks then cannot pass for few filters, which they can where
        BatchNorm measures each batch: it makes what follows them large again.
    statistics : of BatchNorm while choosing, which the paper does not say. ``running``: its frozen
        statistics, our first reading. A threshold shrinks what it keeps, and under them a network
        of shrunk weights fails long before a rank is gone. ``batch``: those of each batch, which
        undo the shrinking, ours; the mask then scales what BatchNorm returns. Neither changes the
        statistics that are kept.
    steepness : C in τ = C/σ₁ of eq. 13.
    step : Adam's learning rate of M, and of γ/σ₁. The schedule's moves weights: here there are
        none, it is for the control.
    tolerance : Algorithm 1's ε, as a share: an epoch with |B − B_d| < ε and μ = α is the last one.
        The schedule's epochs are the most there may be.
    periods_per_epoch : how often μ rises.

    The gradient is exact, of masks through the singular values too. The mask scales BatchNorm's
    output, shift and all. M stays in [0, 1] and γ in [0, 0.99·σ₁]. Filters are counted by φ_s, not
    by the plain sigmoid of eq. 12, which counts 0.73 of one at M = 1; ranks by eq. 13 of the masked
    weights. Grouped convolutions stay whole; a depthwise one has the mask of the layer before it,
    others keep their filters.

    A step costs one of training, and the thresholding: products of each layer's matrix with an
    m × m one, forward and backward, and an eigendecomposition, m = C_out, or C_in·k² where that is
    smaller and C_out at least 256. Layers stacked where none has a mask are decomposed only once.
    On a GPU the host decomposes what is small (``lib/projections/eigenproblems.csv``), for which a
    step waits once; ``on_host`` among the metrics says how many.

    Raises ``ValueError`` for options out of range, and from ``start`` for a budget that no choice
    can meet, and for a network whose filters cannot be followed; both name the layer.
    """

    then = "sgd"
    STATE = ("m", "gamma", "mu", "nu", "spent")
    capturable = False  # an eigendecomposition waits for the device

    def __init__(
        self,
        *,
        budget: int,
        input_shape: Given,
        mode: str = "hybrid",
        scheme: int = 1,
        count: str = "factored",
        penalty: float = 1.0,
        multiplier: bool = True,
        start: float = 2.0,
        beta: float = 4.0,
        alpha: float = 50.0,
        steepness: float = 5.0,
        step: float = 0.01,
        tolerance: float = 0.005,
        straight_through: bool = False,
        statistics: str = "running",
        periods_per_epoch: int = 8,
    ):
        checks.one_of("mode", mode, MODES)
        checks.one_of("scheme", scheme, (1, 2))
        checks.one_of("count", count, ("factored", "built"))
        checks.one_of("statistics", statistics, ("running", "batch"))
        positive = {"penalty": penalty, "start": start, "steepness": steepness, "step": step}
        for name, value in (positive | {"tolerance": tolerance}).items():
            checks.within(name, value, 0, above=True)
        checks.within("beta", beta, 0)
        checks.within("alpha", alpha, start, remedy="at least start")
        self.budget, self.input_shape = budget, as_given(input_shape)
        self.mode, self.scheme, self.count = mode, scheme, count
        self.penalty_weight, self.multiplier = penalty, multiplier
        self.first_mu, self.beta, self.alpha = start, beta, alpha
        self.steepness, self.step, self.tolerance = steepness, step, tolerance
        self.straight_through, self.statistics = straight_through, statistics
        self.periods_per_epoch = periods_per_epoch

    def start(self, model: nn.Module) -> nn.Module:
        """Freezes ``model`` and returns what computes with its masked, thresholded weights."""
        super().start(model)
        self.costs = costs(model, filters=self.mode != "ranks", input_shape=self.input_shape)
        for name in self.costs.layers:
            for parameter in model.get_submodule(name).parameters(recurse=False):
                _refuse_nan(name, parameter, "weights")
        self.dense = sum(layer.macs() for layer in self.costs.layers.values()) + self.costs.rest
        masked, factored = self.costs.sources, self.mode != "filters"
        least(self.costs, self.budget, filters=masked, factored=factored, scheme=self.scheme)
        two = factored and any(layer.factors() for layer in self.costs.layers.values())
        if not masked and not two:
            raise ValueError(nothing_may_leave(self.costs))
        self.target = self.budget / self.dense

        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
        place: Any = {"device": like.device, "dtype": like.dtype}
        # M = 1 and γ = 0, Algorithm 1
        self.m = {name: nn.Parameter(torch.ones(count, **place)) for name, count in masked.items()}
        self.followers = Followers(self.costs, model, own=self.statistics == "batch")
        self.stacks = self._stacks()
        self.gamma = {  # as a share of σ₁
            layer: nn.Parameter(torch.zeros((), **place))
            for stack in self.stacks
            for layer in stack.layers
        }
        # a steep sigmoid leaves small gradients: Adam must forget the large ones of before
        self.adam = torch.optim.Adam(
            [*self.m.values(), *self.gamma.values()], lr=self.step, betas=(0.9, 0.95), eps=1e-16
        )
        self.mu = torch.tensor(self.first_mu, **place)
        self.nu = torch.zeros((), **place)
        self.spent = torch.ones((), **place)  # B of the last forward pass
        self.first = self._first()
        return Surrogate(model, self)

    @torch.no_grad()
    def _first(self) -> Tensor:
        """B of M and γ as ``start`` leaves them."""
        self.replaced()
        return self.spent.clone()

    def _stacks(self) -> list[Stack]:
        """The layers whose matrices have the same number of rows, together; of tall ones columns.

        What is decomposed is as large as that number. Large ones with a mask and without lie apart.
        Where no layer is factored there are none.
        """
        if self.mode == "filters":
            return []
        matrices: dict[tuple[bool, int, bool], dict[str, Tensor]] = {}
        for name, layer in self.costs.layers.items():
            if layer.factors():
                weight = weight_of(self.model, name).detach()
                matrix = matricize(weight, scheme=self.scheme)
                large, tall = len(matrix) >= LARGE, len(matrix) > matrix.shape[1]
                size = matrix.shape[1] if large and tall else len(matrix)
                scaled = self.costs.joined.get(name, name) in self.m
                place = (large and tall, size, large and scaled)
                matrices.setdefault(place, {})[name] = matrix
        masked = {member for name in self.m for member in self.costs.members(name)}
        return [Stack(group, masked=bool(masked & group.keys())) for group in matrices.values()]

    def masks(self) -> dict[str, Tensor]:
        """Layer → φ_s of each filter, (filters,)."""
        # φ_s = 1/(1 + exp(−μ(M − ½))), eq. 8
        soft = {name: torch.sigmoid(self.mu * (m - 0.5)) for name, m in self.m.items()}
        if not self.straight_through:
            return soft
        return {
            name: mask + ((mask >= 0.5).to(mask) - mask).detach() for name, mask in soft.items()
        }

    def replaced(self) -> dict[str, Tensor]:
        """Parameters of the model as W_comp has them; notes B on the way."""
        masks = self.masks()
        each = {member: masks[name] for name in masks for member in self.costs.members(name)}
        found, ranks = {}, {}
        problems = [stack.problem(stack.rows(each, self.scheme)) for stack in self.stacks]
        gammas = [torch.stack([self.gamma[name] for name in stack.layers]) for stack in self.stacks]
        thresholds = [g * stack.largest for g, stack in zip(gammas, self.stacks, strict=True)]
        eigens = self._decomposed(problems, thresholds)
        parts = zip(self.stacks, problems, gammas, thresholds, eigens, strict=True)
        for stack, masked, gamma, threshold, eigen in parts:
            shrunk = shrink(masked, threshold, eigen)
            spectrum = shrunk.spectrum / stack.largest.unsqueeze(-1)
            # Σ tanh(τ·relu(σ − γ)), τ = C/σ₁: eq. 13
            soft = torch.tanh(self.steepness * torch.relu(spectrum - gamma.unsqueeze(-1))).sum(-1)
            # unbound: the gradient of an index is as large as the stack
            layers = zip(stack.layers.items(), shrunk.matrix.unbind(), soft.unbind(), strict=True)
            for (name, (height, width)), matrix, ranks[name] in layers:
                matrix = matrix[:height, :width]
                weight = weight_of(self.model, name)
                found[f"{name}.weight"] = tensorize(matrix, shape=weight.shape, scheme=self.scheme)
        for name, mask in masks.items():
            for member in self.costs.members(name):
                found |= self.followers.weights(member, mask, found)
            found |= self.followers.shifts(name, masks, found)
        self.spent = self._share(masks, ranks)
        return found

    def _decomposed(
        self, problems: list[Problem], thresholds: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each stack, anew where it has a mask: a GPU is waited for once, for all of them."""
        grams = [
            masked.gram.detach()
            for masked, stack in zip(problems, self.stacks, strict=True)
            if stack.eigen is None
        ]
        self.on_host = sum(len(gram) for gram in grams if on_host(gram))
        try:
            found = iter(decompose(grams, thresholds))
        except ValueError:
            self._refuse_nan()
            raise
        return [next(found) if stack.eigen is None else stack.eigen for stack in self.stacks]

    def _share(self, masks: Mapping[str, Tensor], ranks: Mapping[str, Tensor]) -> Tensor:
        """B: MACs as counted softly, over the dense network's."""
        filters = {name: mask.sum() for name, mask in masks.items()}  # eq. 12, by φ_s
        spent = torch.zeros_like(self.spent)
        for name in self.costs.layers:
            layer = self.costs.left(name, filters)
            whole = layer.macs()
            if not isinstance(whole, Tensor):  # made where it is used, not copied there
                whole = torch.full_like(spent, whole)
            if name in ranks:
                # A·r·(k²·c_in + c_out), eq. 14
                factors = layer.macs(rank=ranks[name], scheme=self.scheme)
                whole = factors if self.count == "factored" else torch.minimum(whole, factors)
            spent = spent + whole
        return (spent + self.costs.rest if self.costs.rest else spent) / self.dense

    def aim(self) -> Tensor:
        """B_d, or on the way to it, from what B is at first, with μ: ν need not run ahead of M."""
        if not self.multiplier or self.beta == 0 or self.alpha == self.first_mu:
            return torch.full_like(self.mu, self.target)
        way = (self.mu - self.first_mu) / (self.alpha - self.first_mu)
        return self.first + (self.target - self.first) * (2 * way).clamp(max=1)

    def penalty(self) -> Tensor:
        miss = self.spent - self.aim()
        # λ(B − B_d)², eq. 7, and ν(B − B_d)
        return self.penalty_weight * miss.square() + self.nu * miss

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        self.adam.step()
        self.adam.zero_grad()
        if self.mu.device.type == "cpu":  # a GPU would be waited for
            self._refuse_nan()
        # what has drifted out of reach of the sigmoid would have a long way back
        for learned, largest in ((self.m, 1), (self.gamma, LARGEST_THRESHOLD)):
            if learned:
                torch._foreach_clamp_min_(list(learned.values()), 0)
                torch._foreach_clamp_max_(list(learned.values()), largest)

    @torch.no_grad()
    def after_period(self) -> None:
        self._refuse_nan()
        if self.multiplier:
            # ν ← ν + 2λ(B − B_t)
            self.nu.add_(2 * self.penalty_weight * (self.spent.detach() - self.aim()))
        # μ ← min(α, μ + β)
        self.mu.add_(self.beta).clamp_(max=self.alpha)

    def _refuse_nan(self) -> None:
        values = [*self.m.values(), *self.gamma.values()]
        if torch.cat([value.flatten() for value in values]).isfinite().all():
            return
        for name, value in [*self.m.items(), *self.gamma.items()]:
            _refuse_nan(name, value, "mask or threshold")

    @property
    def done(self) -> bool:  # type: ignore[override]
        """Algorithm 1's |B − B_d| < ε, once the masks are as steep as they become."""
        steep = self.beta == 0 or float(self.mu) >= self.alpha
        return steep and abs(float(self.spent.detach()) - self.target) < self.tolerance

    @torch.no_grad()
    def finish(self) -> bool:
        """Builds the network, in ``model``'s place: its layers are replaced."""
        for parameter in self.trained:
            parameter.requires_grad_(True)
        smaller = self._pruned()
        if self.stacks:
            smaller = factor(
                smaller, self._ranks(smaller), scheme=self.scheme, input_shape=self.input_shape
            )
        if self.multiplier:
            within_budget(smaller, self.budget, self.input_shape)
        become(self.model, smaller)
        return True

    def _pruned(self) -> nn.Module:
        if not self.m:
            return self.model
        if self.multiplier:
            keep = choose_filters(
                self.model,
                self.m,
                budget=self.budget,
                threshold=0.5,
                factored=bool(self.stacks),
                scheme=self.scheme,
                input_shape=self.input_shape,
                found=self.costs,
            )
        else:
            # at least the best one stays
            keep = {name: (m >= 0.5) | (m == m.max()) for name, m in self.m.items()}
        return remove_filters(self.model, keep, input_shape=self.input_shape)

    def _ranks(self, pruned: nn.Module) -> dict[str, int | None]:
        """Of the pruned weights: as many singular values as σ > γ, or as the budget holds."""
        thresholds = {
            name: self.gamma[name] * largest
            for stack in self.stacks
            for name, largest in zip(stack.layers, stack.largest, strict=True)
        }

        def score(name: str, matrix: Tensor) -> Tensor:
            # σ/γ, the threshold's multiple up to which each singular value stays; none is 0/0
            found = torch.linalg.svdvals(matrix.double()) / thresholds[name].double()
            return found.nan_to_num(nan=0, posinf=math.inf)

        if self.multiplier:
            return ranks_for_macs(
                pruned,
                score,
                budget=self.budget,
                scheme=self.scheme,
                input_shape=self.input_shape,
                only=thresholds,
            )
        matrices = {n: matricize(weight_of(pruned, n), scheme=self.scheme) for n in thresholds}
        return {n: max(1, int((score(n, matrix) > 1).sum())) for n, matrix in matrices.items()}

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """μ, ν, B, and how many filters and thresholds are on which side."""
        masks = self.masks()
        kept = sum(int((mask > 0.5).sum()) for mask in masks.values())
        return {
            "mu": float(self.mu),
            "nu": float(self.nu),
            "macs_share": float(self.spent.detach()),
            "filters_kept": kept / max(1, sum(map(len, masks.values()))),
            "mean_threshold": sum(map(float, self.gamma.values())) / max(1, len(self.gamma)),
            # of a step's matrices on a GPU, those decomposed on the host
            **({} if self.mu.device.type == "cpu" else {"on_host": self.on_host}),
        }

    def state_dict(self) -> dict:
        return super().state_dict() | {"adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        # ``start`` may have seen other weights than those that the model was frozen with
        spent = self.spent
        self.stacks = self._stacks()
        self.first, self.spent = self._first(), spent
        super().load_state_dict(state)
        self.adam.load_state_dict(state["adam"])
        for moments in self.adam.state.values():
            # Adam reads it on the host, parameter by parameter
            moments["step"] = moments["step"].cpu()


class Surrogate(nn.Module):
    """The model with W_comp for its weights, always in evaluation mode: h_DF of eq. 11."""

    def __init__(self, model: nn.Module, method: DF):
        super().__init__()
        self.model = model
        self.method = method
        # what is trained: of several processes, their gradients are averaged
        self.learned = nn.ParameterList([*method.m.values(), *method.gamma.values()])
        self.train(False)

    def train(self, mode: bool = True) -> "Surrogate":
        super().train(False)
        if self.method.statistics == "batch":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.training = not getattr(module, "held", False)
        return self

    def forward(self, *inputs: Any, **named: Any) -> Any:
        # singular values want the weights' precision, whatever the rest computes in
        with torch.autocast(self.method.mu.device.type, enabled=False):
            replaced = self.method.replaced()
        if self.method.statistics == "batch":
            # whatever BatchNorm measures on the way is let go
            replaced |= {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        # cuDNN has no gradient of a recurrent layer in evaluation mode
        recurrent = any(isinstance(module, nn.RNNBase) for module in self.model.modules())
        with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            return functional_call(self.model, replaced, inputs, named)


def _refuse_nan(name: str, values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"NaN or infinite {what} in {name!r}: lower the step, or start from another network"
        )
