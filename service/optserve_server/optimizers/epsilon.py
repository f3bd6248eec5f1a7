"""The two places where epsilon can stand under a root, and what holds without it."""

from __future__ import annotations

from enum import StrEnum

from optserve_server.arrays.ops import Ops, Value


class EpsilonPlacement(StrEnum):
    """Placement of epsilon in a denominator."""

    INSIDE = "INSIDE"
    OUTSIDE = "OUTSIDE"


def sqrt_with_epsilon(
    ops: Ops, v: Value, epsilon: Value, placement: EpsilonPlacement, *,
    vanishing: bool, below: Value | None = None,
) -> Value:  # fmt: skip
    """sqrt(v + epsilon) or sqrt(v) + epsilon; with ``below``, v + below in place of v.

    Args:
        ops: the vocabulary.
        v: a second moment, at least 0.
        epsilon: what keeps the root from zero.
        placement: where it stands.
        vanishing: whether epsilon is 0, a static flag. The root of a zero is then 1.
        below: optax' eps_root, which is added under the root in every placement; None
            if it is 0, so that the programs of rules without it do not contain it.
    """
    if below is not None:
        v = v + below
    if vanishing:
        return replace_zeros(ops, ops.sqrt(v))
    if placement is EpsilonPlacement.INSIDE:
        return ops.sqrt(v + epsilon)
    return ops.sqrt(v) + epsilon


def replace_zeros(ops: Ops, denominator: Value) -> Value:
    """``denominator`` with 1 in place of 0.

    A weight that has seen no gradient yet, such as that of a pixel which is always dark,
    has a moment of 0 over a root of 0. It stays where it is instead of becoming nan.
    """
    return ops.where(denominator == 0, 1.0, denominator)
