"""The one judge: how far values lie from those expected, and whether that is too far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conformance.corpus import numbers

BY_ELEMENT = frozenset({"optimizers", "schedules", "gradient", "layers", "metrics"})
"""Families judged element by element. The others' values may cancel to nearly 0, so their
errors are taken relative to the largest magnitude of the array."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an array is from the expected one.

    Attributes:
        relative: the largest relative error.
        ulp: the same in units in the last place of the dtype under test.
    """

    relative: float
    ulp: float


def difference(actual: Any, expected: Any, dtype: npt.DTypeLike, *, by_element: bool) -> Difference:
    """Compares nested lists or arrays of equal size.

    Raises:
        ValueError: the sizes differ, or a value is not finite.
    """
    got, wanted = flat(actual), flat(expected)
    if got.shape != wanted.shape:
        raise ValueError(f"{got.size} values where {wanted.size} are expected")
    if not np.isfinite(got).all():
        raise ValueError("a value is not finite")
    if not got.size:
        return Difference(0.0, 0.0)
    errors, magnitudes = np.abs(got - wanted), np.abs(wanted)
    if not by_element:
        magnitudes = np.full_like(magnitudes, magnitudes.max())
    spacing = np.spacing(magnitudes.astype(dtype)).astype(np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        relative = np.divide(errors, magnitudes, out=np.zeros_like(errors), where=errors > 0)
        return Difference(float(relative.max()), float((errors / spacing).max()))


def flat(tree: Any) -> npt.NDArray[np.float64]:
    """The numbers of an array, or of nested lists, arrays and objects, in order."""
    if isinstance(tree, np.ndarray):
        return tree.astype(np.float64).ravel()
    if isinstance(tree, Mapping):
        return np.concatenate([flat(tree[key]) for key in sorted(tree)])
    if isinstance(tree, list) and tree and isinstance(tree[0], np.ndarray | Mapping):
        return np.concatenate([flat(item) for item in tree])
    return np.array(numbers(tree), np.float64)


def judge(
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
    tolerance: float,
    dtype: npt.DTypeLike,
    family: str,
) -> Difference:
    """Compares all parts of an answer.

    Args:
        actual: the answer's parts, named as in ``expected``.
        expected: the recorded parts.
        tolerance: the largest relative error that passes.
        dtype: the type in which ``actual`` was computed.
        family: decides whether each element is judged for itself.

    Returns:
        The largest difference.

    Raises:
        AssertionError: a part is missing, too many, too far off, or not finite.
    """
    assert set(actual) == set(expected), f"{sorted(actual)} where {sorted(expected)} are expected"
    worst = Difference(0.0, 0.0)
    for part, wanted in expected.items():
        found = difference(actual[part], wanted, dtype, by_element=family in BY_ELEMENT)
        assert found.relative <= tolerance, (
            f"{part} is off by {found.relative:.3g} relative ({found.ulp:.3g} ulp); {tolerance:g} is allowed"
        )
        worst = max(worst, found, key=lambda d: d.relative)
    assert math.isfinite(worst.relative)
    return worst
