"""The entropy coder: one range coder, seen alike by who writes and by who reads.

A model is written once, as a function of a coder: given the data it writes them, given ``None`` it
reads them, and either way it returns them. So no reader can disagree with its writer. The range
coder is the library ``constriction``'s. Probabilities come from additions, multiplications,
divisions and square roots alone, which IEEE 754 rounds alike on every machine.
"""

import constriction
import numpy as np

_BIT = constriction.stream.model.Bernoulli(perfect=False)
_CLASS = constriction.stream.model.Categorical(perfect=False)

#: Bytes of a word of the coded stream.
WORD = 4


class Broken(ValueError):
    """The coded stream holds something that no writer wrote."""


class Meter:
    """A coder that writes nothing: ``spent`` counts the bits that a stream would grow by.

    The count is of information, −log₂ p; the stream itself is longer by less than 64 bits in all.
    """

    def __init__(self):
        self.spent = 0.0

    def bits(self, p: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Codes ``bits``, each of which is 1 with its own probability ``p``, both (n,).

        ``p`` (models, n) are the probabilities of several models, and so ``spent`` is (models,).
        """
        self.spent = self.spent - np.log2(np.where(bits, p, 1 - p)).sum(axis=-1)
        return bits

    def symbols(self, weights: np.ndarray, count: int, symbols: np.ndarray) -> np.ndarray:
        """Codes ``count`` symbols, each k with a probability in proportion to ``weights[k]``.

        The weights are positive whole numbers, so that their sum is the same in any order.
        """
        costs = np.log2(weights.sum()) - np.log2(weights)
        self.spent += float(costs[symbols].sum())
        return symbols

    def classes(self, weights: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Codes symbols, each of weights of its own, (n, classes); otherwise as :meth:`symbols`."""
        chosen = np.take_along_axis(weights, symbols[:, None], axis=1)[:, 0]
        self.spent += float((np.log2(weights.sum(axis=1)) - np.log2(chosen)).sum())
        return symbols


class Encoder:
    """Writes."""

    def __init__(self):
        self._stream = constriction.stream.queue.RangeEncoder()

    def bits(self, p: np.ndarray, bits: np.ndarray) -> np.ndarray:
        self._stream.encode(bits.astype(np.int32), _BIT, p)
        return bits

    def symbols(self, weights: np.ndarray, count: int, symbols: np.ndarray) -> np.ndarray:
        if len(weights) > 1:  # one symbol alone needs no code, and constriction refuses to make it
            model = constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)
            self._stream.encode(symbols.astype(np.int32), model)
        return symbols

    def classes(self, weights: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        self._stream.encode(symbols.astype(np.int32), _CLASS, weights)
        return symbols

    def content(self) -> bytes:
        """What was written so far, a whole number of words."""
        return self._stream.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads what an :class:`Encoder` wrote. Raises :class:`Broken` where nobody wrote that."""

    def __init__(self, content: bytes | memoryview):
        if len(content) % WORD:
            raise Broken(f"a stream of {len(content)} bytes is not one of whole words")
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._stream = constriction.stream.queue.RangeDecoder(words)

    def bits(self, p: np.ndarray, bits: None = None) -> np.ndarray:
        return self._read(_BIT, p).astype(bool)

    def symbols(self, weights: np.ndarray, count: int, symbols: None = None) -> np.ndarray:
        if len(weights) == 1:
            return np.zeros(count, np.int32)
        model = constriction.stream.model.Categorical(weights.astype(np.float64), perfect=False)
        return self._read(model, count)

    def classes(self, weights: np.ndarray, symbols: None = None) -> np.ndarray:
        return self._read(_CLASS, weights)

    def finish(self) -> None:
        """Raises :class:`Broken` where the stream goes on beyond what was read."""
        if not self._stream.maybe_exhausted():
            raise Broken("the stream goes on after the last tensor")

    def _read(self, model, amount) -> np.ndarray:
        try:
            return self._stream.decode(model, amount)
        except (AssertionError, ValueError) as error:
            raise Broken(f"the stream is not one that was written: {error}") from error
