"""The two places where epsilon can stand under a root."""

from __future__ import annotations

from enum import StrEnum

from optserve_server.arrays.vocabulary import Ops, Value


class EpsilonPlacement(StrEnum):
    """Where epsilon stands in a denominator."""

    INSIDE = "INSIDE"
    OUTSIDE = "OUTSIDE"


def root(ops: Ops, v: Value, epsilon: Value, placement: EpsilonPlacement) -> Value:
    """sqrt(v + epsilon) or sqrt(v) + epsilon."""
    if placement is EpsilonPlacement.INSIDE:
        return ops.sqrt(v + epsilon)
    return ops.sqrt(v) + epsilon
