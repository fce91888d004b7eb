"""ADMM: one size budget in bits; which weights to keep, and each layer's bits, learned together.

Yang, Gui, Zhu, Liu, "Automatic Neural Network Compression by Sparsity-Quantization Joint
Learning" (CVPR 2020), Algorithm 1. W are the network's weights (sparse), V their quantized
duplicate, Y the dual variable that pulls them together; here U = Y/ρ is kept instead of Y.
"""

import torch
from torch import Tensor, nn

from lib.projections import checks
from lib.projections.codebook import assign, fit_codebooks
from lib.projections.knapsack import project_fixed_bitwidth
from lib.projections.multiple_choice import choose_bitwidths
from lib.training.method import Method

MODES = ("joint", "prune", "quantize")

#: The paper's ℬ, the bitwidths that a layer may get.
BITWIDTHS = range(1, 9)


class ADMM(Method):
    """min ℓ(W) subject to Σ b(W⁽ⁱ⁾)·‖W⁽ⁱ⁾‖₀ ≤ ``budget`` bits (eq. 1), by Algorithm 1.

    ``mode``:
      - ``joint``: weights kept and bits a layer are both learned; zero costs nothing, so a layer
        of b bits has 2ᵇ nonzero values and zero;
      - ``prune``: every kept weight costs 32 bits, nothing is quantized (V = W, Y = 0);
      - ``quantize``: every weight is kept and pays its layer's bits; zero is one of the 2ᵇ values.

    ``rho`` is ρ, and ``growth`` what multiplies it after every projection (1 in the paper): a small
    ρ lets W learn, a large one at the end makes it meet V. ``start_bits`` is every layer's first
    bitwidth, which the mean hardly leaves (3 → 2.53 and 1 → 1.00 on LeNet-5, Table 3);
    ``periods_per_epoch`` how often an epoch the projections and the dual step are done
    (the paper's τ' is one epoch); ``exact`` is False, and only there because experiments' ids
    spell it out.

    The proximal step follows the optimizer's and has no momentum. SGD's momentum m amplifies the
    gradient, so W rests where ∇ℓ = (1 − m)·ρ·(V − Y/ρ − W): against the loss, ρ pulls like
    (1 − m)·ρ in plain gradient descent. The paper does not say so.

    Three ways to end it, all ours and off by default, for a learning rate that falls to zero: W
    then stops while U = Σ(W − V) goes on growing, V wanders, and the last quantization costs what
    the loss never saw.
      - ``fading``: the dual step shrinks with the learning rate, U ← U + (α/α_max)·(W − V);
      - ``hold_after``: after so many periods V, the weights that are kept and the bits stay as they
        are, and W is pulled to a V that no longer moves;
      - ``average_after``: what is projected and quantized at the end is the average of W at the
        ends of the periods after so many.

    A heuristic for a non-convex problem: always within the budget, never proven optimal. A step
    costs one pass over the weights (the proximal term), a period the two projections. Biases and
    normalisation stay in 32 bits, outside the budget.

    Raises ``ValueError`` for an unknown mode, a ρ or a growth that is not positive, a number of
    periods below one, or (from ``start``) a budget that no choice of bits fits.
    """

    then = "tune-codebooks"
    STATE = ("v", "u", "anchor", "bits", "rho", "period", "support", "mean", "rate", "highest")

    def __init__(
        self,
        *,
        budget: int,
        mode: str = "joint",
        rho: float = 0.05,
        start_bits: int = 3,
        periods_per_epoch: int = 1,
        exact: bool = False,
        growth: float = 1.0,
        fading: bool = False,
        hold_after: int | None = None,
        average_after: int | None = None,
    ):
        checks.one_of("mode", mode, MODES)
        checks.within("rho", rho, 0, above=True, remedy="the paper uses 0.05")
        checks.within("growth", growth, 0, above=True, remedy="the paper's ρ is constant, 1")
        checks.whole("start_bits", start_bits, min(BITWIDTHS), max(BITWIDTHS))
        checks.within("periods_per_epoch", periods_per_epoch, 1)
        if mode == "prune" and (fading or hold_after is not None):
            raise ValueError("fading and hold_after move U and V: mode='prune' has neither")
        for name, periods in (("hold_after", hold_after), ("average_after", average_after)):
            if periods is not None:
                checks.within(name, periods, 1, remedy="periods, or None for never")
        checks.one_of("exact", exact, [False])
        self.budget, self.mode = budget, mode
        self.fading, self.hold_after, self.average_after = fading, hold_after, average_after
        self.first_rho, self.growth = rho, growth
        self.start_bits, self.periods_per_epoch = start_bits, periods_per_epoch

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        self.rho = torch.tensor(self.first_rho, device=self.w[0].device)
        self.v = [torch.zeros_like(w) for w in self.w]
        self.u = [torch.zeros_like(w) for w in self.w]
        # V − U, what the proximal step pulls to
        self.anchor = [torch.zeros_like(w) for w in self.w]
        self.period = 0
        # the learning rate of the last step, and the largest so far
        self.rate, self.highest = torch.zeros_like(self.rho), torch.zeros_like(self.rho)
        # where W is not zero while V is held, and the average of W
        self.support: list[Tensor] = []
        self.mean: list[Tensor] = []
        bits = 32 if self.mode == "prune" else self.start_bits
        self.bits = torch.full((len(self.w),), bits)
        least = sum(w.numel() for w in self.w)
        if self.mode == "quantize" and self.budget < least:
            raise ValueError(
                f"a budget of {self.budget:,} bits is too small: quantization alone needs at least "
                f"{least:,}, one bit a weight; raise it or use mode='joint'"
            )
        self._project()

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        if self.fading:
            self.rate.copy_(lr)
            torch.maximum(self.highest, lr, out=self.highest)
        # W ← (W − α∇ℓ + αρ(V − Y/ρ)) / (1 + αρ), W − α∇ℓ being what the optimizer left:
        # W ← W + t·(V − U − W) with t = αρ/(1 + αρ)
        t = lr * self.rho / (1 + lr * self.rho)
        if t.device.type == "cpu":
            from lib.optimizers import proximal_cpu  # numba takes half a second to import

            for w, anchor in zip(self.w, self.anchor, strict=True):
                proximal_cpu.pull(w, anchor, t)
            return
        # over all layers in three launches
        pull = torch._foreach_sub(self.anchor, self.w)
        torch._foreach_mul_(pull, t)
        torch._foreach_add_(self.w, pull)

    @torch.no_grad()
    def after_period(self) -> None:
        self.period += 1
        if self.average_after is not None and self.period > self.average_after:
            self._average()
        if self.hold_after is None or self.period <= self.hold_after:
            self._project()
        if self.hold_after is not None and self.period >= self.hold_after:
            self._hold()

    def _project(self) -> None:
        """Lines 7 to 10 of Algorithm 1: project W, then W + Y/ρ onto V, then the dual step."""
        self._project_w(self.w)
        if self.mode == "prune":
            torch._foreach_copy_(self.v, self.w)
        else:
            target = torch._foreach_add(self.w, self.u)
            self._project_v(target)
            self._dual_step(target)
        self._set_anchor()

    def _dual_step(self, target: tuple[Tensor, ...]) -> None:
        """Y ← Y + ρ(W − V), divided by ρ; ``target`` is W + U."""
        if self.fading and self.period:
            # U ← U + (α/α_max)·(W − V)
            residual = torch._foreach_sub(self.w, self.v)
            torch._foreach_mul_(residual, self.rate / self.highest)
            torch._foreach_add_(self.u, residual)
        else:
            torch._foreach_copy_(self.u, target)
            torch._foreach_sub_(self.u, self.v)
        # ρ ← growth·ρ; Y stays, so U = Y/ρ shrinks
        self.rho.mul_(self.growth)
        torch._foreach_div_(self.u, self.growth)

    def _set_anchor(self) -> None:
        torch._foreach_copy_(self.anchor, self.v)
        torch._foreach_sub_(self.anchor, self.u)

    def _hold(self) -> None:
        """The dual step alone; W has the zeros that it had when V was projected for the last time.

        Where W is zero, V and U are made so too: nothing pulls at what is gone.
        """
        if self.period == self.hold_after:
            every = self.mode == "quantize"
            self.support = [torch.ones_like(w) if every else (w != 0).to(w) for w in self.w]
            torch._foreach_mul_(self.v, self.support)
            torch._foreach_mul_(self.u, self.support)
        else:
            torch._foreach_mul_(self.w, self.support)
            self._dual_step(torch._foreach_add(self.w, self.u))
        self._set_anchor()

    def _average(self) -> None:
        """W̄ ← W̄ + (W − W̄)/n, n the periods that are averaged so far."""
        if not self.mean:
            self.mean = [torch.zeros_like(w) for w in self.w]
        change = torch._foreach_sub(self.w, self.mean)
        torch._foreach_div_(change, self.period - (self.average_after or 0))
        torch._foreach_add_(self.mean, change)

    def _project_w(self, w: list[Tensor]) -> None:
        if self.mode != "quantize":
            project_fixed_bitwidth(w, self.bits, budget=self.budget, out=w)

    def _project_v(self, target: tuple[Tensor, ...]) -> None:
        free_zero = self.mode == "joint"
        counts = self._paying()
        books = fit_codebooks(target, widest=self._affordable(counts), free_zero=free_zero)
        choice = choose_bitwidths(books.errors, counts, budget=self.budget)
        self.bits = choice.bitwidths
        for v, t, centres, b in zip(self.v, target, books.centres, self.bits.tolist(), strict=True):
            v.copy_(assign(t, centres[b - 1], free_zero=free_zero))

    def _paying(self) -> list[int]:
        """How many weights of each layer pay bits: the nonzeros, or all when only quantizing."""
        if self.mode == "quantize":
            return [w.numel() for w in self.w]
        return torch.stack([torch.count_nonzero(w) for w in self.w]).tolist()

    @torch.no_grad()
    def compressed(self) -> dict[str, Tensor]:
        """W quantized to V's bitwidths ("directly perform a quantization to W*", Section 4.1).

        With ``average_after`` it is the projection of the average of W.
        """
        final = self._averaged() if self.mean else self.w
        if self.mode == "prune":
            return dict(zip(self.names, final, strict=True))
        free_zero = self.mode == "joint"
        books = fit_codebooks(final, widest=self.bits.tolist(), free_zero=free_zero)
        return {
            name: assign(w, centres[bits - 1], free_zero=free_zero)
            for name, w, bits, centres in zip(
                self.names, final, self.bits.tolist(), books.centres, strict=True
            )
        }

    def _averaged(self) -> list[Tensor]:
        """The average of W, projected as W is, or with the zeros that are held."""
        final = [mean.clone() for mean in self.mean]
        if self.support:
            torch._foreach_mul_(final, self.support)
        else:
            self._project_w(final)
        return final

    @torch.no_grad()
    def finish(self) -> bool:
        torch._foreach_copy_(self.w, list(self.compressed().values()))
        return True

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Figure 2c's mean squared difference of W and V, and where the budget goes, by layer."""
        weights = sum(w.numel() for w in self.w)
        squares = sum(d.double().square().sum() for d in torch._foreach_sub(self.w, self.v))
        kept, bits = self._paying(), self.bits.tolist()
        return {
            "mse": float(squares) / weights,
            "kept_fraction": sum(kept) / weights,
            "bits": sum(b * n for b, n in zip(bits, kept, strict=True)),
            **{f"{name}.kept": n for name, n in zip(self.names, kept, strict=True)},
            **{f"{name}.bits": b for name, b in zip(self.names, bits, strict=True)},
        }

    def _affordable(self, counts: list[int]) -> list[int]:
        """For each layer the widest choice that fits when every other layer gets one bit."""
        spare = self.budget - sum(counts)
        return [8 if n == 0 else min(8, 1 + spare // n) for n in counts]
