"""What a run is: stages of training, an experiment, and its entry in the catalogue."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property

from lib import paths
from lib.training import Schedule


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: a method with its own options, on a schedule."""

    method: str
    schedule: Schedule
    options: tuple[tuple[str, int | float | str | bool | tuple], ...] = ()

    @property
    def epochs(self) -> int:
        """Passes over the training images, those of all trials of a search."""
        return self.schedule.epochs * dict(self.options).get("trials", 1)


def stage(method: str, schedule: Schedule, **options) -> Stage:
    """A training by ``method``, with its own ``options``."""
    return Stage(method=method, schedule=schedule, options=tuple(sorted(options.items())))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a run is, but for its seed and for where it is computed.

    ``slug`` is for people. The identity is a hash of every other field that differs from its
    default, the parent's included, so a field that is added with a default orphans no run.
    ``recipe`` is raised when a change of the code alters what the same fields compute.

    ``like`` is a run whose allocation is taken over: a stage's option ``keep`` or ``bits`` of
    ``"like"`` is what each of its layers keeps, or its bits. Without a parent its shapes and its
    zeros are taken over too, by a network that is trained from scratch.

    ``published``: the network has its published weights (:mod:`lib.networks.pretrained`) before
    its stages, which may be none.

    ``budget`` is in bits of the compressible weights, or in what ``budget_in`` says: ``macs``, of
    one image, or ``bytes`` of the file.
    """

    slug: str
    dataset: str
    network: str
    stages: tuple[Stage, ...]
    parent: "Experiment | None" = None
    mode: str | None = None
    budget: int | None = None
    trace: bool = False
    held_out: bool = False
    like: "Experiment | None" = None
    budget_in: str = "bits"
    recipe: int = 1
    published: bool = False

    @cached_property
    def name(self) -> str:
        """The slug and the hash of all other fields."""
        spec = json.dumps(specification(self, without=("slug",)), sort_keys=True)
        return f"{self.slug}-{hashlib.sha256(spec.encode()).hexdigest()[:8]}"

    def id(self, seed: int) -> str:
        """The run's folder name."""
        return f"{self.name}-s{seed}"

    @property
    def epochs(self) -> int:
        """Passes over the training images, of all stages."""
        return sum(one.epochs for one in self.stages)

    @cached_property
    def control(self) -> "Experiment | None":
        """The fine-tuned dense control: the start, by the same schedules, without compression.

        Where the parent is a compressed network itself, its own control is fine-tuned. A traced run
        is a figure's curve, one on held-out images a trial: they have none.
        """
        plain = all(one.method == "sgd" for one in self.stages)
        if self.parent is None or plain or self.trace or self.held_out:
            return None
        start = self.parent.control or self.parent
        # some stages choose at once, in no epochs
        stages = (stage("sgd", s.schedule) for s in self.stages if s.schedule.epochs)
        return compressed(start, f"{start.slug}-trained-on-{self.epochs}ep", *stages)

    @property
    def needs(self) -> "list[Experiment]":
        """What is trained before: the parent, what is taken over, and the control."""
        return [one for one in (self.parent, self.like, self.control) if one]


def compressed(start: Experiment, slug: str, *stages: Stage, **others) -> Experiment:
    """What ``stages`` make of a trained network, on the images that it was trained on.

    Parameters
    ----------
    start : the parent; data set, network and whether images are held out are taken from it.
    slug : the new name for people.
    stages : the trainings, in their order.
    others : what else differs from the defaults of an :class:`Experiment`.
    """
    same = {name: getattr(start, name) for name in ("dataset", "network", "held_out")}
    return Experiment(**same | {"slug": slug, "stages": stages, "parent": start} | others)


#: Where ResNet-20's trials are in the queue, right behind its first rows; MNIST's rows, behind
#: ResNet-20's; and CIFAR's for a GPU, behind those that a CPU trains.
TRIALS, MNIST, FULL = 1.5, 4, 7


@dataclass(frozen=True)
class Entry:
    """An experiment in the catalogue: what for, how soon (1 is first), and with how many seeds.

    ``priority`` is seed 0's, and that of all seeds without ``later_priority``.
    """

    experiment: Experiment
    purpose: str
    priority: float
    seeds: int = 1
    later_priority: float | None = None

    @property
    def gpu(self) -> bool:
        """Whether its schedule is a GPU's, so that a CPU takes it only when it is named."""
        return self.priority >= FULL and self.experiment.dataset not in paths.APART

    @property
    def runs(self) -> list[tuple[Experiment, int]]:
        """The experiment with each of its seeds."""
        return [(self.experiment, seed) for seed in range(self.seeds)]

    def place(self, seed: int) -> tuple[float, int]:
        """Where a seed is in the queue: its priority, then the seed; smaller is sooner."""
        later = self.priority if self.later_priority is None else self.later_priority
        return (later if seed else self.priority, seed)

    def merged(self, other: "Entry") -> "Entry":
        """With all seeds that one of two entries of an experiment asks for, each as soon as asked.

        The purpose stays this one's.
        """
        asked = [entry for entry in (self, other) if entry.seeds > 1]
        return replace(
            self,
            seeds=max(self.seeds, other.seeds),
            priority=min(self.priority, other.priority),
            later_priority=min((entry.place(1)[0] for entry in asked), default=None),
        )


def wanted(
    rows: Iterable[Experiment], purpose: str, priority: float, seeds: int = 1
) -> Iterator[Entry]:
    """An entry for each of some experiments."""
    return (Entry(row, purpose, priority, seeds) for row in rows)


#: Fields of an experiment that are experiments.
RUNS = ("parent", "like")


def specification(value: object, *, without: tuple[str, ...] = ()) -> object:
    """Plain JSON of a dataclass: the fields that differ from their defaults."""
    if isinstance(value, (tuple, list)):
        return [specification(item) for item in value]
    if not is_dataclass(value):
        return value
    return {
        field.name: specification(
            getattr(value, field.name), without=("slug",) if field.name in RUNS else ()
        )
        for field in fields(value)
        if field.name not in without and getattr(value, field.name) != field.default
    }
