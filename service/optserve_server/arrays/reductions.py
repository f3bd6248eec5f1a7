"""Order of summation, the same in every executor, so that all get the same bits.

Each segment is cut from its start into blocks of `BLOCK` elements. Element i of a block
goes to lane i % `LANES`; a lane adds its elements in ascending order to a float64 zero.
The lanes of a block are folded by halves (lane j plus lane j + 32, then j + 16, ...), and
a segment's blocks are added up in ascending order. None of this depends on how a call is
spread over threads or on how many elements are computed at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.program import ReductionKind

LANES = 64
"""Partial sums of a block."""

BLOCK = 8192
"""Elements of a block; a multiple of `LANES`."""

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)  # arrays do not hash: each cut is itself
class SegmentBlocks:
    """The blocks of a call.

    Attributes:
        starts: where each segment starts (int64).
        ends: where each segment ends (int64).
        firsts: the number of each segment's first block, then the count of all (int64).
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]

    @classmethod
    def from_ends(cls, ends: npt.NDArray[np.int64]) -> SegmentBlocks:
        """The cut of segments with these ends."""
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1]
        firsts = np.zeros(len(ends) + 1, np.int64)
        np.cumsum((ends - starts + BLOCK - 1) // BLOCK, out=firsts[1:])
        return cls(starts, ends, firsts)

    @functools.cached_property
    def element_count(self) -> int:
        """How many elements there are."""
        return int(self.ends[-1])

    @functools.cached_property
    def block_count(self) -> int:
        """How many blocks there are."""
        return int(self.firsts[-1])

    def block_bounds(self, first: int, last: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where the blocks from number ``first`` to before ``last`` start and end."""
        blocks = np.arange(first, last)
        segments = np.searchsorted(self.firsts, blocks, side="right") - 1
        starts = self.starts[segments] + (blocks - self.firsts[segments]) * BLOCK
        return starts, np.minimum(starts + BLOCK, self.ends[segments])

    def block_at(self, element: int) -> int:
        """The number of the block that holds ``element``; the count, at the end."""
        if element in (0, self.element_count):
            return self.block_count if element else 0
        segment = int(np.searchsorted(self.ends, element, side="right"))
        return int(self.firsts[segment] + (element - self.starts[segment]) // BLOCK)

    def block_start(self, element: int) -> int:
        """Where the block that holds ``element`` starts; ``element`` itself at the end."""
        if element == self.element_count:
            return element
        segment = int(np.searchsorted(self.ends, element, side="right"))
        start = int(self.starts[segment])
        return start + (element - start) // BLOCK * BLOCK


def make_segment_blocks(size: int, ends: npt.NDArray[np.int64] | None) -> SegmentBlocks:
    """The cut of a call over ``size`` elements; sessions make the same ones over and over.

    Raises:
        ValueError: the last segment does not end at ``size``.
    """
    cut = (
        _single_segment_blocks(size)
        if ends is None
        else _decode_segment_blocks(np.ascontiguousarray(ends, np.int64).tobytes())
    )
    if cut.element_count != size:
        raise ValueError("arrays and segments differ in length")
    return cut


@functools.lru_cache(maxsize=256)
def _single_segment_blocks(size: int) -> SegmentBlocks:
    return SegmentBlocks.from_ends(np.array([size], np.int64))


@functools.lru_cache(maxsize=64)
def _decode_segment_blocks(ends: bytes) -> SegmentBlocks:
    return SegmentBlocks.from_ends(np.frombuffer(ends, np.int64))


def compute_summands(kind: ReductionKind, values: npt.NDArray[Any], out: Floats) -> None:
    """Writes to ``out`` what each of ``values`` (any float dtype) adds to the sum."""
    if kind is ReductionKind.NON_FINITE_COUNT:
        np.logical_not(np.isfinite(values), out=out, casting="unsafe")
        return
    np.copyto(out, values)
    if kind is ReductionKind.SUM_OF_SQUARES:
        np.multiply(out, out, out=out)
    else:
        np.abs(out, out=out)


def sum_blocks(summands: Floats, out: Floats) -> None:
    """Sums the consecutive blocks of (part of) a segment.

    Args:
        summands: the elements, contiguous; only the last block may be short.
        out: one sum per block.
    """
    whole, rest = divmod(len(summands), BLOCK)
    if whole:
        full = summands[: whole * BLOCK].reshape(whole, BLOCK // LANES, LANES)
        out[:whole] = fold_lanes(np.add.reduce(full, axis=1))
    if rest:
        lanes = np.zeros((1, LANES))
        rows, tail = divmod(rest, LANES)
        short = summands[whole * BLOCK :]
        if rows:
            np.add.reduce(short[: rows * LANES].reshape(rows, LANES), axis=0, out=lanes[0])
        if tail:
            lanes[0, :tail] += short[rows * LANES :]
        out[whole:] = fold_lanes(lanes)


def sum_short_blocks(summands: Floats, starts: npt.NDArray[Any], ends: npt.NDArray[Any], out: Floats) -> None:
    """Sums many short blocks, all of them one row at a time.

    Args:
        summands: the elements, and at least `LANES` more of any value.
        starts: where each block starts.
        ends: where each block ends.
        out: one sum per block.
    """
    windows = np.lib.stride_tricks.sliding_window_view(summands, LANES)
    lanes = np.zeros((len(starts), LANES))
    for row in range(0, int(np.max(ends - starts)), LANES):
        left = ends - starts - row
        unfinished = np.flatnonzero(left > 0)
        part = windows[starts[unfinished] + row]
        part[np.arange(LANES) >= left[unfinished, np.newaxis]] = 0.0
        lanes[unfinished] += part
    out[:] = fold_lanes(lanes)


def fold_lanes(lanes: Floats) -> Floats:
    """Folds (blocks, `LANES`) to (blocks,)."""
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def fold_blocks(sums: Floats, cut: SegmentBlocks) -> Floats:
    """Folds the sums of all blocks to one sum per segment."""
    single = np.diff(cut.firsts) == 1
    if single.all():
        return sums
    out = np.zeros(len(cut.ends))
    out[single] = sums[cut.firsts[:-1][single]]
    with np.errstate(over="ignore", invalid="ignore"):
        for segment in np.flatnonzero(~single):
            own = sums[cut.firsts[segment] : cut.firsts[segment + 1]]
            if len(own):  # cumsum adds from left to right, unlike sum
                out[segment] = np.cumsum(own)[-1]
    return out
