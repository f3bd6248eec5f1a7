"""What a run was asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASELINE = "794b1ba"
"""The last revision before the contract's final form; its client used gRPC by a private API."""


@dataclass(frozen=True)
class Options:
    """How much to measure.

    Attributes:
        heavy: whether peers that need large installations take part, and what takes long to start.
        rounds: how many times each contender is measured, in turn.
        seconds: about how long one measurement lasts.
        sizes: the only sizes to measure; None for each group's own.
        largest: the largest size to measure.
        against: the earlier revision to compare with.
        dry_run: whether the GPU's group runs small on the host, where it has no GPU.
        workers: how many train together.
    """

    heavy: bool = True
    rounds: int = 5
    seconds: float = 0.5
    sizes: tuple[int, ...] | None = None
    largest: int = 10**9
    against: str = BASELINE
    dry_run: bool = False
    workers: int = 16

    def sizes_of(self, own: Sequence[int]) -> list[int]:
        """The sizes that a group is to measure; ``own`` are those that it has."""
        return [n for n in (own if self.sizes is None else self.sizes) if n <= self.largest]
