"""Common functions of losses over probabilities and logits."""

from __future__ import annotations

import math

from optserve_server.arrays.ops import Ops, Value

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP], Keras' epsilon()."""


def clip_probability(ops: Ops, p: Value, low: float = CLIP, high: float = 1 - CLIP) -> Value:
    """``p`` held to [low, high]."""
    return ops.minimum(ops.maximum(p, low), high)


def zero_where_clipped(ops: Ops, p: Value, slope: Value, low: float = CLIP, high: float = 1 - CLIP) -> Value:
    """``slope``, but 0 where ``p`` is clipped. On the bounds themselves it is not."""
    return ops.where(p < low, 0.0, ops.where(p > high, 0.0, slope))


def multiply_no_nan(ops: Ops, factor: Value, x: Value) -> Value:
    """``factor*x``, but 0 where the factor is 0 and ``x`` infinite. NaN stays NaN."""
    return ops.where(factor == 0, ops.where(ops.abs(x) <= math.inf, 0.0, x), factor * x)


def sigmoid(ops: Ops, z: Value) -> Value:
    """1/(1 + exp(-z)), without overflow, and accurate where it is near 0."""
    e = ops.exp(-ops.abs(z))
    return ops.where(z >= 0, 1 / (1 + e), e / (1 + e))


def softplus(ops: Ops, z: Value) -> Value:
    """log(1 + exp(z)), without overflow: -log(1 - sigmoid(z))."""
    return ops.maximum(z, 0.0) + ops.log1p(ops.exp(-ops.abs(z)))


def power(ops: Ops, x: Value, exponent: float) -> Value:
    """``x`` to a constant exponent; of whole exponents up to 3 a product."""
    if exponent == 0:
        return 1.0
    if exponent in (1, 2, 3):
        product = x
        for _ in range(int(exponent) - 1):
            product = product * x
        return product
    return ops.exp(exponent * ops.log(x))
