"""Random numbers of one tensor, drawn in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK_ELEMENTS = 1 << 20
"""Elements between two calls of a check: some ten milliseconds of work."""

_ROUNDS = 64
"""One draw in 22 is outside, so no tensor that fits into memory needs as many."""


class Draws:
    """A generator of random numbers whose work can be ended from outside.

    The numbers are those that the generator draws in one call: the blocks change no bits.

    Args:
        rng: the generator.
        check: called between two blocks; what it raises ends the work. None if nothing ends it.

    Attributes:
        check: the same; does nothing if it was None.
    """

    def __init__(self, rng: np.random.Generator, check: Callable[[], None] | None = None) -> None:
        self._rng = rng
        self.check = check or _never_end

    def draw_normal(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Standard normal numbers, float64 of ``shape``."""
        drawn = np.empty(shape)
        for block in self._split(drawn):
            self._rng.standard_normal(out=block)
        return drawn

    def draw_uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Uniform numbers in [0, 1), float64 of ``shape``."""
        drawn = np.empty(shape)
        for block in self._split(drawn):
            self._rng.random(out=block)
        return drawn

    def draw_truncated_normal(self, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Standard normal numbers in [-2, 2], by redrawing those outside; float64 of ``shape``."""
        z = self.draw_normal(shape)
        for _ in range(_ROUNDS):
            redrawn = 0
            for block in self._split(z):
                outside = np.flatnonzero(np.abs(block) > 2)
                block[outside] = self._rng.standard_normal(outside.size)
                redrawn += outside.size
            if not redrawn:
                break
        return np.clip(z, -2, 2, out=z)

    def _split(self, drawn: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
        flat = drawn.reshape(-1)
        for start in range(0, flat.size, BLOCK_ELEMENTS):
            self.check()
            yield flat[start : start + BLOCK_ELEMENTS]


def _never_end() -> None:
    pass
