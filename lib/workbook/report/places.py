"""Where CIFAR-10's committed runs are: on its own pixels, or on those of its JPEG mirror."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report.rows import finished
from lib.workbook.runs import Run

#: What stands in for CIFAR-10 where its pixels are not at hand.
MIRROR = "cifar10-jpeg"


@dataclass(frozen=True)
class Place:
    """Committed runs of one data set and schedule, and keys of those that are not there yet."""

    dataset: str
    length: str
    network: str
    found: dict[Hashable, list[Run]]
    missing: tuple[Hashable, ...]


def places(
    rows: Callable[..., Mapping[Hashable, Experiment]],
    *,
    lengths: Sequence[str] = ("full", "cpu", "short"),
) -> list[Place]:
    """Where there are committed runs of ``rows``, an experiment by key: CIFAR-10 before the mirror.

    The mirror's pixels stand in for CIFAR-10's: a key that is there on CIFAR-10 is left out of the
    mirror's, and none of the mirror's is missed.
    """
    made, exact = [], set()
    for dataset, its in (("cifar10", ("full", "cpu")), (MIRROR, ("full", "short"))):
        for length in (length for length in its if length in lengths):
            wanted = rows(dataset, **experiments.df.chosen(length, dataset=dataset, device="cpu"))
            found = {k: runs for k, runs in finished(wanted).items() if k not in exact}
            if found:
                missing = tuple(key for key in wanted if key not in found and dataset != MIRROR)
                network = next(iter(wanted.values())).network
                made.append(Place(dataset, length, network, found, missing))
        if dataset != MIRROR:
            exact = {key for place in made for key in place.found}
    return made
