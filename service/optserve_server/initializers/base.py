"""Base class of initializers: the initial value of a tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason, mismatch_error
from optserve_server.hyperparameters import Algorithm
from optserve_server.initializers.draws import Draws


@dataclass(frozen=True)
class Initializer(Algorithm):
    """How a tensor is filled."""

    def initialize(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        rng: np.random.Generator,
        check: Callable[[], None] | None = None,
    ) -> npt.NDArray[Any]:
        """A new C-contiguous array.

        Draws are made in float64 and rounded, so both dtypes get the same numbers.

        Args:
            shape: of the array.
            dtype: float32 or float64.
            rng: what the numbers are drawn from.
            check: called every few milliseconds; what it raises ends the work, which may take minutes.

        Raises:
            DomainError: OUT_OF_RANGE, if a number is too large for ``dtype``, or
                SHAPE_MISMATCH, if such a tensor cannot be filled so.
        """
        with np.errstate(over="ignore"):
            drawn = np.asarray(self.values(shape, Draws(rng, check)), dtype, order="C")
        if not np.isfinite(drawn).all():
            text = f"{self.name} draws numbers too large for {dtype}"
            raise DomainError(Reason.OUT_OF_RANGE, text, metadata={"range": f"that of {dtype}"})
        return drawn

    @abstractmethod
    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        """A new float64 array of ``shape``, in which long work calls the check of ``draws`` often."""


def require_rank(name: str, fits: bool, expected: str, rank: int) -> None:
    """Refuses a tensor of a rank that does not fit.

    Raises:
        DomainError: SHAPE_MISMATCH.
    """
    if not fits:
        text = f"{name} fills tensors of {expected} dimensions, but this one has {rank}"
        raise mismatch_error(Reason.SHAPE_MISMATCH, None, f"{expected} dimensions", rank, text)
