"""The user's data: how many batches there really are, and how small the smallest is."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from tqdm.auto import tqdm

from lib.training.batches import MOST, items


def counted(data: Any, what: str, *, quiet: bool) -> tuple[int, int]:
    """Batches of a pass over ``data``, and the items of the smallest one.

    A length is taken at its word where it cannot be wrong: of a list, and of a ``DataLoader`` that
    batches a data set itself. Elsewhere the batches are counted in a pass, to the length that they
    have, at which an endless one is cut off.

    Raises ``ValueError`` for what is not iterable, is used up after one pass, holds no batch, or
    has no length and does not end.
    """
    if not isinstance(data, Iterable):
        raise ValueError(
            f"the {what} is of {type(data).__name__}: give a DataLoader, or a list of batches"
        )
    if iter(data) is data:
        raise ValueError(
            f"the {what} is an iterator, which is used up after one pass: give a DataLoader, or "
            "list(…) of it"
        )
    length = _length(data)
    if isinstance(data, list | tuple):
        sizes = [_items(batch, what) for batch in data]
    elif isinstance(data, DataLoader) and _batches_itself(data):
        images = len(data.sampler)  # type: ignore[arg-type]
        assert data.batch_size is not None
        assert length is not None
        last = images - (length - 1) * data.batch_size
        return _some(length, what), min(last, data.batch_size)
    else:
        passing = tqdm(
            islice(data, MOST if length is None else length),
            desc=f"counting the {what}",
            unit="batch",
            disable=quiet,
            leave=False,
        )
        sizes = [_items(batch, what) for batch in passing]
        if length is None and len(sizes) == MOST:
            raise ValueError(
                f"the {what} has no length and {MOST:,} batches or more: give it a length"
            )
        if sizes and next(iter(data), None) is None:
            raise ValueError(
                f"the {what} is used up after one pass: give a DataLoader, or list(…) of it"
            )
    return _some(len(sizes), what), min(sizes)


def _some(count: int, what: str) -> int:
    if not count:
        raise ValueError(
            f"the {what} holds no batch: give a DataLoader (drop_last=False) or a list of them"
        )
    return count


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _batches_itself(loader: DataLoader) -> bool:
    """Whether its length is that of its sampler's images, in batches of one size."""
    return (
        not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and type(loader.sampler).__module__.startswith("torch.utils.data")
    )


def _items(batch: Any, what: str) -> int:
    found = items(batch)
    if not found:
        raise ValueError(
            f"a batch of the {what} is of {type(batch).__name__} and holds no tensor or array of "
            "an item or more: give (inputs, targets)"
        )
    return found
