"""Euclidean norms over the whole range of float64.

The square of a float64 beyond 1e154 overflows, and one below 1e-154 loses digits or
underflows. So beside the sum of the squares of x there are those of x*2^-600 and x*2^600, which are
exact but for the exponent: whatever x is, one of the three neither overflows nor loses
digits that count (as the three accumulators of Blue, "A portable Fortran program to find the
Euclidean norm of a vector", 1978, but without a branch for each element). Squares of
narrower types cannot leave the range, and take the one sum.

All three are ordinary reductions of a program, taken in one pass and in the order of
`optserve_server.arrays.reductions`; so norms have the same bits in every executor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.program import ReductionKind
from optserve_server.arrays.trace import Tracer

SHRINK, ENLARGE = 2.0**-600, 2.0**600
"""What elements are multiplied by before they are squared."""

LEAST = 2.0**-900
"""A sum below this may have lost digits: an element's square loses up to 2^-1075."""

LARGE, SMALL = ":large", ":small"
"""What the names of the additional sums end with."""


def trace_norm_sums(t: Tracer, name: str, value: Any, *, wide: bool) -> None:
    """Adds to a program the sums that `norm_from_sums` needs.

    Args:
        t: traces the program.
        name: of the sum.
        value: the elements.
        wide: whether they are of float64.
    """
    t.reduce(name, ReductionKind.SUM_OF_SQUARES, value)
    if wide:
        t.reduce(name + LARGE, ReductionKind.SUM_OF_SQUARES, value * SHRINK)
        t.reduce(name + SMALL, ReductionKind.SUM_OF_SQUARES, value * ENLARGE)


def norm_from_sums(sums: Mapping[str, float], name: str) -> float:
    """The Euclidean norm from sums over all of its elements; 0 without elements.

    Sums of several calls may be added up by name before, those of narrower types included: beside
    a float32 that is not 0, what the additional sums lack of it counts for nothing.
    """
    plain = sums.get(name, 0.0)
    if plain == math.inf:
        return math.sqrt(sums.get(name + LARGE, math.inf)) * ENLARGE
    if plain < LEAST:
        return math.sqrt(sums.get(name + SMALL, 0.0)) * SHRINK
    return math.sqrt(plain)


def segment_norms(sums: Mapping[str, npt.NDArray[np.float64]], name: str) -> npt.NDArray[np.float64]:
    """The norms of each segment (float64), from a call's sums."""
    plain = sums[name]
    if name + LARGE not in sums:
        return np.sqrt(plain)
    with np.errstate(over="ignore"):
        large, small = np.sqrt(sums[name + LARGE]) * ENLARGE, np.sqrt(sums[name + SMALL]) * SHRINK
    return np.select([plain == np.inf, plain < LEAST], [large, small], np.sqrt(plain))


def norms_by_name(sums: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[np.float64]]:
    """`segment_norms` of every name of a program whose only reductions are those of `trace_norm_sums`."""
    return {name: segment_norms(sums, name) for name in sums if not name.endswith((LARGE, SMALL))}
