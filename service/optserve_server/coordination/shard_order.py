"""The order in which the shards of an epoch are leased: a permutation that needs no memory.

A Feistel network with cycle walking (Black and Rogaway 2002) and keys by SplitMix64 (Steele et al.
2014), as `DataPlanSpec` of the contract states it.
"""

from __future__ import annotations

ROUNDS = 6

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def index_at(place: int, count: int, seed: int, epoch: int) -> int:
    """The shard at a place of an epoch's order.

    Args:
        place: the place, in [0, count).
        count: number of shards.
        seed: seed of the plan.
        epoch: the epoch, from 0.

    Returns:
        The shard, in [0, count).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    keys = [_splitmix64(seed + _GAMMA * (ROUNDS * epoch + turn + 1)) for turn in range(ROUNDS)]
    low = (1 << half) - 1
    while True:  # a permutation of 4^half numbers: the walk reaches one below count
        upper, lower = place >> half, place & low
        for key in keys:
            upper, lower = lower, upper ^ (_splitmix64(key + lower) & low)
        place = upper << half | lower
        if place < count:
            return place


def _splitmix64(number: int) -> int:
    """SplitMix64's finalizer."""
    number &= _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
