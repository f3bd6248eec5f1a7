"""Several steps of a program on given arrays, the same for every executor."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.kernel import Kernel, Segments
from optserve_server.optimizers.groupwise import GroupwiseRule
from tests.support.variants import Variant

Arrays = dict[str, npt.NDArray[Any]]
STEPS = 3


def start(variant: Variant, dtype: np.dtype[Any], size: int) -> Arrays:
    """Parameters, and slots as the rule begins."""
    rng = np.random.default_rng(7)
    arrays = {name: np.zeros(size, dtype) for name in variant.program.arrays if name != "g"}
    for name, value in variant.rule.slots().items():
        arrays[name] = np.full(size, value, dtype)
    arrays["p"] = rng.standard_normal(size).astype(dtype)
    return arrays


def gradient(step: int, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
    """Of many magnitudes and both signs, with zeros of both signs."""
    rng = np.random.default_rng(step)
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 3, size)
    values[rng.integers(0, size, size // 8)] = 0.0
    values[rng.integers(0, size, size // 16)] = -0.0
    return values.astype(dtype)


def numbers(variant: Variant) -> list[dict[str, float]]:
    """Every program's numbers for each of the steps, the rate changing."""
    carried = dict(variant.rule.initial_scalar_state())
    guards = {
        "guard_loss_scale": 8.0,
        "guard_accumulation_steps": 2.0,
        "guard_l1": 0.01,
        "guard_l2": 0.02,
        "guard_low": -0.5,
        "guard_high": 0.5,
        "guard_clip": 0.7,
        "guard_average_kept": 1.0,
        "guard_average_rate": 0.1,
    }
    result = []
    for step in range(1, STEPS + 1):
        own = variant.rule.compute_scalars(step, 0.1 / step, **carried)
        carried = {name: own[name] for name in carried}
        if isinstance(variant.rule, GroupwiseRule):
            more, carried = variant.rule.compute_group_scalars(defaultdict(lambda: 0.5), own)
            own |= more
        result.append({**own, **guards, "guard_decay": 1 - 0.01 / step})
    return result


def segments_of(variant: Variant, size: int, low: int = 0, high: int | None = None) -> Segments | None:
    """A cut into thirds, seen from the elements between ``low`` and ``high``."""
    if not variant.program.segment_scalars:
        return None
    high = size if high is None else high
    ends = np.array([size // 3, 2 * size // 3, size], np.int64)
    factors = np.array([0.3, 1.0, 0.9])
    inside = (ends > low) & (np.concatenate([[0], ends[:-1]]) < high)
    of_tensors = dict.fromkeys(variant.program.segment_scalars, factors[inside])
    return Segments(np.minimum(ends[inside], high) - low, of_tensors)


def run(
    variant: Variant, kernel: Kernel, arrays: Arrays, dtype: np.dtype[Any], cuts: tuple[int, ...] = ()
) -> Arrays:
    """Takes the steps in place, each as one call or in pieces that end at ``cuts``."""
    size = len(arrays["p"])
    for step, scalars in enumerate(numbers(variant)):
        whole = {**arrays, "g": gradient(step, dtype, size)}
        needed = {name: scalars[name] for name in variant.program.scalars}
        for low, high in zip((0, *cuts), (*cuts, size), strict=True):
            piece = {name: array[low:high] for name, array in whole.items()}
            kernel(piece, needed, segments_of(variant, size, low, high))
    return arrays


def differences(expected: Arrays, actual: Arrays) -> str:
    """Which arrays differ in which element first; empty if none does."""
    found = []
    for name, array in expected.items():
        unlike = np.flatnonzero(array.view(f"u{array.itemsize}") != actual[name].view(f"u{array.itemsize}"))
        if len(unlike):
            at = int(unlike[0])
            found.append(f"{name}[{at}]: {array[at]!r} != {actual[name][at]!r} ({len(unlike)} differ)")
    return "; ".join(found)
