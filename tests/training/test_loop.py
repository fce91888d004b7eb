"""The training loop against plain PyTorch, and its promises: repeatable, resumable, stoppable."""

import copy
import hashlib
import io
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import networks, training
from lib.data import Dataset, Split, load
from lib.layers import compressible
from lib.optimizers import ADMM, Method
from lib.training import Diverged, OutOfTime, Schedule, arithmetic, evaluate, predict, train

SCHEDULE = Schedule(epochs=4, lr=0.1, batch=8, warmup=1, momentum=0.9, weight_decay=0.01)


def dataset(n=30):
    """Random images whose class is the brightest of three columns; the first pixel is an id."""
    images = torch.randint(0, 256, (2 * n, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(2 * n)
    labels = images.sum((1, 2)).argmax(1)
    images = images.to(torch.uint8)
    train, test = Split(images[:n], labels[:n]), Split(images[n:], labels[n:])
    return Dataset("toy", train, test, (0.5,), (0.25,), classes=3, fingerprint="")


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = [nn.Linear(9, 6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 3)]
    return nn.Sequential(nn.Flatten(), *layers)


def run(model, method=None, schedule=SCHEDULE, **options):
    options = {"seed": 0, "quiet": True} | options
    return train(model, dataset(), schedule, method or Method(), **options)


def same(a, b):
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.fixture
def every_epoch_is_saved(monkeypatch):
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)


class Spy(Method):
    """Keeps what the loop calls, in order, and which images each step sees."""

    def __init__(self, periods=1):
        self.periods_per_epoch, self.calls, self.batches = periods, [], []

    def start(self, model):
        self.calls.append("start")
        model.register_forward_pre_hook(
            lambda module, args: self.batches.append(args[0]) if module.training else None
        )

    def penalty(self):
        self.calls.append("penalty")

    def after_step(self, lr):
        self.calls.append(("step", float(lr)))

    def after_period(self):
        self.calls.append("period")

    def finish(self):
        self.calls.append("finish")


@pytest.mark.parametrize(
    ("epochs", "warmup", "steps", "rates"),
    [
        # t = 0…7, two of them warm-up: ½, 1, then ½(1 + cos(π·k/6)) for k = 0…5
        (4, 1, 2, [0.5, 1, 1, 0.5 + 3**0.5 / 4, 0.75, 0.5, 0.25, 0.5 - 3**0.5 / 4]),
        (2, 0, 2, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        (1, 1, 4, [0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_rates_rise_linearly_then_fall_as_a_cosine(epochs, warmup, steps, rates):
    found = Schedule(epochs=epochs, lr=0.2, warmup=warmup).rates(steps)
    assert found.tolist() == pytest.approx([0.2 * rate for rate in rates])
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clip", 0, "clip = 0 must be positive"),
        ("precision", "float16", "'float16' must be float32 or bfloat16"),
        ("crop", -1, "crop = -1 must be 0 pixels or more"),
    ],
)
def test_a_schedule_refuses_what_cannot_be(name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(SCHEDULE, **{name: value})


def test_the_plain_loop_is_momentum_sgd():
    spy, ours, plain, data = Spy(), network(), network(), dataset()
    history = run(ours, spy)

    weights = [p for p in plain.parameters() if p.dim() == 2]
    biases = [p for p in plain.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=False)
    rates = [0.025, 0.05, 0.075, 0.1]  # 30 images in batches of 8: four steps an epoch
    rates += [0.1 * 0.5 * (1 + math.cos(math.pi * k / 12)) for k in range(12)]
    losses = []
    for images, lr in zip(spy.batches, rates, strict=True):
        ids = ((images[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().long()
        loss = functional.cross_entropy(plain(images), data.train.labels[ids])
        sgd.zero_grad()
        loss.backward()
        for group in sgd.param_groups:
            group["lr"] = lr
        sgd.step()
        losses.append(loss.item() * len(ids))

    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for epoch, row in enumerate(history):
        assert row["epoch"] == epoch + 1
        assert row["train_loss"] == pytest.approx(sum(losses[4 * epoch : 4 * epoch + 4]) / 30)
        assert row["lr"] == pytest.approx(rates[4 * epoch + 3])


def test_every_epoch_sees_every_image_once_in_another_order():
    spy, data = Spy(), dataset()
    run(network(), spy)
    epochs = [torch.cat(spy.batches[i : i + 4]) for i in range(0, 16, 4)]
    whole = data.normalise(data.train.images)
    for epoch in epochs:
        order = epoch[:, 0, 0, 0].argsort()
        assert torch.equal(epoch[order], whole)  # ids rise
    for a, b in itertools.combinations([whole, *epochs], 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize(("periods", "after"), [(1, [4]), (2, [2, 4]), (4, [1, 2, 3, 4])])
def test_periods_are_evenly_spaced(periods, after):
    spy = Spy(periods)
    run(network(), spy)
    assert (spy.calls[0], spy.calls[-1]) == ("start", "finish")
    steps, seen = 0, []
    for call in spy.calls[1:-1]:
        steps += call[0] == "step"
        if call == "period":
            seen.append(steps)
    assert seen == [4 * epoch + step for epoch in range(4) for step in after]
    rates = [call[1] for call in spy.calls if call[0] == "step"]
    assert rates == SCHEDULE.rates(4).tolist()
    assert spy.calls.count("penalty") == len(rates)


def test_the_penalty_is_added_to_the_loss():
    class Decay(Method):
        def start(self, model):
            self.weights = compressible(model).values()

        def penalty(self):
            return 0.01 / 2 * sum((w**2).sum() for w in self.weights)

    plain, penalised, neither = network(), network(), network()
    free = Schedule(epochs=4, lr=0.1, batch=8, warmup=1)
    with_decay = run(plain)
    with_penalty = run(penalised, Decay(), free)
    run(neither, schedule=free)
    for a, b in zip(plain.parameters(), penalised.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not same(penalised, neither)
    # the history's loss is that of the data alone
    assert with_penalty[-1]["train_loss"] == pytest.approx(with_decay[-1]["train_loss"], rel=1e-4)


def test_the_gradient_is_scaled_down_to_the_limit():
    clipped = replace(SCHEDULE, epochs=1, warmup=0, momentum=0.0, weight_decay=0.0, clip=1e-3)
    before, model = network(), network()
    run(model, schedule=clipped)
    moved = torch.cat(
        [
            (a - b).detach().flatten()
            for a, b in zip(before.parameters(), model.parameters(), strict=True)
        ]
    )
    rates = clipped.rates(4)  # 30 images in batches of 8
    # every gradient is longer than the limit here, and none can move the weights further
    assert 0 < float(moved.norm()) <= 1.001 * 1e-3 * float(rates.sum())


def test_more_periods_than_steps_are_refused():
    method = Method()
    method.periods_per_epoch = 5
    with pytest.raises(ValueError, match="5 is more than the 4 steps"):
        run(network(), method)


def test_half_precision_computes_coarsely_and_keeps_weights_whole(monkeypatch):
    monkeypatch.setattr(arithmetic, "has_bfloat16", lambda kind: True)  # emulated where it must be
    half = replace(SCHEDULE, precision="bfloat16")
    exact, coarse, again = network(), network(), network()
    run(exact)
    run(coarse, schedule=half)
    run(again, schedule=half)
    assert same(coarse, again)
    assert not same(coarse, exact)
    assert all(p.dtype == torch.float32 for p in coarse.parameters())
    x, y, start = (
        torch.cat([p.detach().flatten() for p in m.parameters()])
        for m in (coarse, exact, network())
    )
    assert (x - y).norm() < 0.1 * (y - start).norm()  # next to the way that they went


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, second, other, later = (network(dropout=0.3) for _ in range(4))
    a, b = run(first), run(second)
    run(other, seed=1)
    run(later, stage=1)
    assert same(first, second)
    assert without_seconds(a) == without_seconds(b)
    assert not same(first, other)
    assert not same(first, later)


def test_what_a_method_draws_at_its_start_is_the_stages_own():
    """In the first stage the caller has seeded; a later one may begin anywhere."""

    class Drawing(Method):
        def start(self, model):
            self.drawn = float(torch.rand(()))

    def drawn(before, *, stage, seed=0):
        model, method = network(), Drawing()
        torch.manual_seed(before)
        run(model, method, seed=seed, stage=stage)
        return method.drawn

    assert drawn(1, stage=1) == drawn(2, stage=1)
    assert len({drawn(1, stage=1), drawn(1, stage=2), drawn(1, stage=1, seed=1)}) == 3
    assert drawn(1, stage=0) == float(torch.rand((), generator=torch.Generator().manual_seed(1)))


@pytest.mark.usefixtures("every_epoch_is_saved")
def test_resuming_from_any_epoch_gives_the_same_bits():
    method, states = lambda: ADMM(budget=90, periods_per_epoch=2), []

    def save(state):
        states.append(io.BytesIO())
        torch.save(state, states[-1])

    whole = network(dropout=0.3)
    history = run(whole, method(), save=save, trace=True)
    assert len(states) == 4
    for state in states:
        torch.manual_seed(99)  # a new process is in no particular state
        resumed = network(dropout=0.3)
        nn.init.ones_(resumed[1].weight)
        state = torch.load(io.BytesIO(state.getvalue()), weights_only=True)
        again = run(resumed, method(), resume=state, trace=True)
        assert same(resumed, whole)
        assert without_seconds(again) == without_seconds(history)


CROPPED = replace(SCHEDULE, crop=1, flip=True)


def seen(**options):
    """The images of every training step, in order."""
    spy = Spy()
    run(network(), spy, **options)
    return torch.cat(spy.batches)


@pytest.mark.parametrize(("crop", "flip"), [(1, False), (0, True), (1, True)])
def test_crops_and_flips_change_the_images_and_not_their_order(crop, flip):
    """Image by image in NumPy: what the loop shows the network are cuts of what it would show."""
    data = dataset()
    plain = seen()
    made = seen(schedule=replace(SCHEDULE, crop=crop, flip=flip))
    black = data.normalise(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)).item()
    used = set()
    for before, after in zip(plain, made, strict=True):
        padded = functional.pad(before, 4 * [crop], value=black)
        shifts = itertools.product(range(2 * crop + 1), range(2 * crop + 1), range(1 + flip))
        cuts = {
            (row, column, mirrored): cut.flip(2) if mirrored else cut
            for row, column, mirrored in shifts
            for cut in [padded[:, row : row + 3, column : column + 3]]
        }
        found = [how for how, cut in cuts.items() if torch.equal(cut, after)]
        assert found
        used.add(found[0])
    assert len(used) == (2 * crop + 1) ** 2 * (1 + flip)


def test_every_epoch_and_seed_is_cropped_anew():
    made, plain, epochs = seen(schedule=CROPPED), seen(), []
    assert torch.equal(made, seen(schedule=CROPPED))
    for other in (seen(schedule=CROPPED, seed=1), seen(schedule=CROPPED, stage=1), plain):
        assert not torch.equal(made, other)
    for i in range(0, 4 * 30, 30):
        ids = plain[i : i + 30, 0, 0, 0].argsort()
        epochs.append(made[i : i + 30][ids])
    for a, b in itertools.combinations(epochs, 2):
        assert not torch.equal(a, b)


def test_without_crops_nothing_is_drawn_but_the_order():
    """The order of a run from before there were crops: numerics of old runs stay."""
    label = int.from_bytes(hashlib.sha256(b"0/0/0").digest()[:7], "big")
    order = torch.randperm(30, generator=torch.Generator().manual_seed(label))
    data = dataset()
    assert torch.equal(seen()[:30], data.normalise(data.train.images[order]))


def test_short_epochs_share_a_checkpoint(monkeypatch):
    saves = []
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 1000)
    run(network(), save=saves.append)
    assert len(saves) == 1  # the last epoch's


def test_checkpoints_cost_a_tenth_of_the_time_at_most(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training.loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 1)
    saves = []

    def evaluated(*_):  # an epoch lasts 10
        clock.now += 10
        return 0.0, 0.0

    def slowly(state):
        saves.append(len(state["history"]))
        clock.now += 2  # so that the next is 20 later, or more

    monkeypatch.setattr(training.loop, "evaluate", evaluated)
    schedule = replace(SCHEDULE, epochs=8)
    run(network(), schedule=schedule, save=slowly)
    assert saves == [1, 4, 7, 8]  # more than 20 seconds apart, and the last epoch's


def test_a_loss_that_is_no_number_stops_the_run():
    schedule = Schedule(epochs=3, lr=1e30, batch=8)
    with pytest.raises(Diverged, match=r"in epoch \d: lower the learning rate"):
        run(network(), schedule=schedule)


def test_a_deadline_stops_after_a_whole_epoch_with_its_state_saved(monkeypatch):
    whole, stopped = network(), network()
    history = run(whole)
    # A clock that goes on by one each time that it is read: an epoch lasts four.
    monkeypatch.setattr(
        training.loop, "time", SimpleNamespace(monotonic=itertools.count().__next__)
    )
    states = []
    with pytest.raises(OutOfTime, match="stopped after 1 of 4 epochs"):
        run(stopped, save=states.append, deadline=10)
    resumed = network()
    again = run(resumed, resume=states[-1])
    assert same(resumed, whole)
    assert without_seconds(again) == without_seconds(history)


def test_a_deadline_that_has_passed_trains_and_saves_nothing():
    model, states = network(), []
    with pytest.raises(OutOfTime, match="stopped after 0 of 4 epochs"):
        run(model, save=states.append, deadline=-math.inf)
    assert same(model, network())
    assert states == []


@pytest.mark.parametrize("training_mode", [True, False])
def test_evaluation_is_right_and_leaves_the_mode(training_mode, monkeypatch):
    data, model = dataset(), network(dropout=0.5)
    model.train(training_mode)
    loss, accuracy = evaluate(model, data, data.test)
    classes = predict(model, data, data.test)
    assert model.training == training_mode
    with torch.no_grad():
        logits = model.eval()((data.test.images.double() / 255 - 0.5).float() / 0.25)
    picked = logits.double().softmax(1)[torch.arange(30), data.test.labels]
    assert loss == pytest.approx(float(-picked.log().mean()), rel=1e-5)
    assert torch.equal(classes, logits.argmax(1))
    assert accuracy == float((logits.argmax(1) == data.test.labels).sum()) / 30

    monkeypatch.setattr(training.evaluation, "EVALUATION_BATCH", 7)  # 30 is no multiple
    assert evaluate(model, data, data.test) == pytest.approx((loss, accuracy))
    assert torch.equal(predict(model, data, data.test), classes)


def test_tracing_measures_both_networks_and_changes_neither_training():
    class Halved(Method):
        def start(self, model):
            self.layers = compressible(model)

        def compressed(self):
            return {name: w.detach() / 2 for name, w in self.layers.items()}

    plain, traced = network(), network()
    run(plain)
    history = run(traced, Halved(), trace=True)
    assert same(plain, traced)
    data = dataset()
    assert history[-1]["loss"] == evaluate(traced, data, data.train)[0]
    with torch.no_grad():
        for weight in compressible(traced).values():
            weight /= 2
    assert history[-1]["compressed_loss"] == evaluate(traced, data, data.train)[0]
    assert history[-1]["compressed_test_accuracy"] == evaluate(traced, data, data.test)[1]


# ----------------------------------------------------------------------------- batches of one's own


@pytest.mark.usefixtures("every_epoch_is_saved")
def test_batches_with_a_loss_are_trained_on_and_resumed():
    """Plain SGD by hand; one output for a sum of two inputs, and batches of several sizes."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(3, 1)

        def forward(self, a, b):
            return self.line(a + b)

    def made(seed=0):
        torch.manual_seed(seed)
        return Sum()

    generator = torch.Generator().manual_seed(1)
    batches = [
        (*torch.randn(2, n, 3, generator=generator), torch.randn(n, 1, generator=generator))
        for n in (8, 8, 5)
    ]
    ours, plain, states = made(), made(), []
    options = {"loss": functional.mse_loss, "seed": 0, "quiet": True}
    schedule = replace(SCHEDULE, epochs=2)
    save = lambda state: states.append(copy.deepcopy(state))  # noqa: E731
    history = train(ours, batches, schedule, Method(), save=save, **options)

    groups = [{"params": [plain.line.weight], "weight_decay": 0.01}, {"params": [plain.line.bias]}]
    sgd, losses = torch.optim.SGD(groups, lr=0.0, momentum=0.9), []
    for (a, b, y), lr in zip(2 * batches, schedule.rates(3).tolist(), strict=True):
        loss = functional.mse_loss(plain(a, b), y)
        sgd.zero_grad()
        loss.backward()
        for group in sgd.param_groups:
            group["lr"] = lr
        sgd.step()
        losses.append(len(y) * loss.item())
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert [row["train_loss"] for row in history] == pytest.approx(
        [sum(losses[:3]) / 21, sum(losses[3:]) / 21]
    )
    assert "test_loss" not in history[0]  # there is nothing to test on
    resumed = made(seed=1)
    train(resumed, batches, schedule, Method(), resume=states[0], **options)
    assert same(resumed, ours)


# ------------------------------------------------------------------------- BatchNorm statistics


def test_recalibrated_statistics_are_those_of_the_training_images():
    data = load("digits", size=16)
    model = networks.build("resnet8")
    with torch.no_grad():
        for weight in compressible(model).values():
            weight.mul_(3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    training.recalibrate(model, training.training_images(data))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    with torch.no_grad():
        out = model.stem.conv(data.normalise(data.train.images))
    means = torch.stack(
        [part.mean((0, 2, 3)) for part in out.split(training.evaluation.EVALUATION_BATCH)]
    )
    variances = torch.stack(
        [part.var((0, 2, 3)) for part in out.split(training.evaluation.EVALUATION_BATCH)]
    )
    norm = model.stem.bn
    torch.testing.assert_close(norm.running_mean, means.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances.mean(0), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_only_a_method_that_changes_weights_at_the_end_is_recalibrated(monkeypatch):
    calls = []
    monkeypatch.setattr(training.loop, "recalibrate", lambda model, data: calls.append(model))
    data = load("digits", size=16)
    schedule = Schedule(epochs=1, lr=0.01, batch=512)
    for method in (Method(), ADMM(budget=100_000)):
        model = networks.build("resnet8")
        train(model, data, schedule, method, seed=0, quiet=True)
    assert calls == [model]
