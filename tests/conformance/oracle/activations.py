"""Activations with their vector-Jacobian products, on nested lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tests.conformance.oracle.lines import flatten, lines, nest, shape_of

Scalar = Callable[[float], tuple[float, float]]
"""From x to the value and the derivative."""


def sigmoid(x: float) -> tuple[float, float]:
    small = math.exp(-abs(x))
    high, low = 1 / (1 + small), small / (1 + small)
    return (high if x >= 0 else low), high * low


def tanh(x: float) -> tuple[float, float]:
    return math.tanh(x), (1 / math.cosh(x)) ** 2 if abs(x) < 700 else 0.0


def relu(x: float) -> tuple[float, float]:
    return max(x, 0.0), float(x > 0)


def leaky_relu(slope: float) -> Scalar:
    return lambda x: (x, 1.0) if x > 0 else (slope * x, slope)


def evaluate(function: Scalar, x: Any, output_gradient: Any) -> dict[str, Any]:
    shape = shape_of(x)
    pairs = [function(value) for value in flatten(x)]
    products = [d * g for (_, d), g in zip(pairs, flatten(output_gradient), strict=True)]
    return {"output": nest([y for y, _ in pairs], shape), "input_gradient": nest(products, shape)}


def softmax(x: Any, output_gradient: Any, *, axis: int) -> dict[str, Any]:
    shape = shape_of(x)
    z, g = flatten(x), flatten(output_gradient)
    output, product = [0.0] * len(z), [0.0] * len(z)
    for row in lines(shape, axis):
        top = max(z[k] for k in row)
        total = math.fsum(math.exp(z[k] - top) for k in row)
        for k in row:
            output[k] = math.exp(z[k] - top) / total
        dot = math.fsum(output[k] * g[k] for k in row)
        for k in row:
            product[k] = output[k] * (g[k] - dot)
    return {"output": nest(output, shape), "input_gradient": nest(product, shape)}
