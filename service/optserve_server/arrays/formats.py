"""Reading and writing narrow floats on NumPy arrays, in the compute dtype."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

STORAGE = (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)
"""The dtypes that arrays may be stored in."""

COMPUTE = (FLOAT32, FLOAT64)
"""The dtypes that programs compute in."""


def decode(source: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Converts ``source`` to the dtype of ``out``."""
    np.copyto(out, source, casting="unsafe")


def encode(source: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Rounds ``source`` to the dtype of ``out``, to nearest even."""
    if source.dtype == FLOAT64 and out.dtype == BFLOAT16:  # the cast would round twice
        source = to_odd(source)
    np.copyto(out, source, casting="unsafe")


def to_odd(source: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Rounds to float32, to the odd one of both neighbours where inexact.

    Such a number keeps on which side of a tie it was, so that it can be rounded again.
    """
    near = source.astype(np.float32)
    bits = near.view(np.uint32)
    wide = near.astype(np.float64)
    bits -= np.abs(wide) > np.abs(source)
    bits |= (wide != source) & (source == source)
    return near
