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


def rrelu(lower: float, upper: float) -> Scalar:
    """What is not training takes the mean; so does training where both are equal."""
    return leaky_relu((lower + upper) / 2)


def elu(alpha: float) -> Scalar:
    return lambda x: (x, 1.0) if x > 0 else (alpha * math.expm1(x), alpha * math.exp(x))


def selu(x: float) -> tuple[float, float]:
    scale = 1.0507009873554804934193349852946
    y, d = elu(1.6732632423543772848170429916717)(x)
    return scale * y, scale * d


def celu(alpha: float) -> Scalar:
    return lambda x: (x, 1.0) if x > 0 else (alpha * math.expm1(x / alpha), math.exp(x / alpha))


def gelu(x: float) -> tuple[float, float]:
    below = math.erfc(-x / math.sqrt(2)) / 2
    density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if abs(x) < 1e6 else 0.0
    return x * below, below + x * density


def gelu_tanh(x: float) -> tuple[float, float]:
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    t = math.tanh(root * (x + cubic * x**3))
    return x / 2 * (1 + t), (1 + t) / 2 + x / 2 * (1 - t * t) * root * (1 + 3 * cubic * x * x)


def silu(x: float) -> tuple[float, float]:
    y, d = sigmoid(x)
    return x * y, y + x * d


def mish(x: float) -> tuple[float, float]:
    t, d = tanh(softplus(1.0)(x)[0])
    return x * t, t + x * d * sigmoid(x)[0]


def softplus(beta: float) -> Scalar:
    def scalar(x: float) -> tuple[float, float]:
        return max(x, 0.0) + math.log1p(math.exp(-abs(beta * x))) / beta, sigmoid(beta * x)[0]

    return scalar


def softsign(x: float) -> tuple[float, float]:
    return x / (1 + abs(x)), (1 + abs(x)) ** -2


def hard_sigmoid(x: float) -> tuple[float, float]:
    return min(max(x / 6 + 0.5, 0.0), 1.0), 1 / 6 if abs(x) < 3 else 0.0


def hard_swish(x: float) -> tuple[float, float]:
    if abs(x) >= 3:
        return max(x, 0.0), float(x > 0)
    return x * (x / 6 + 0.5), x / 3 + 0.5


def rectifier(max_value: float = math.inf, slope: float = 0.0, threshold: float = 0.0) -> Scalar:
    def scalar(x: float) -> tuple[float, float]:
        if x <= threshold:
            return slope * (x - threshold), slope
        if max_value == math.inf:
            return x, 1.0
        return min(max(x, 0.0), max_value), float(0 < x < max_value)

    return scalar


def threshold(limit: float, value: float) -> Scalar:
    return lambda x: (x, 1.0) if x > limit else (value, 0.0)


def linear(x: float) -> tuple[float, float]:
    return x, 1.0


def hard_tanh(low: float = -1.0, high: float = 1.0) -> Scalar:
    return lambda x: (min(max(x, low), high), float(low < x < high))


def hard_shrink(limit: float = 0.5) -> Scalar:
    return lambda x: (x, 1.0) if abs(x) > limit else (0.0, 0.0)


def soft_shrink(limit: float = 0.5) -> Scalar:
    return lambda x: (x - math.copysign(limit, x), 1.0) if abs(x) > limit else (0.0, 0.0)


def tanh_shrink(x: float) -> tuple[float, float]:
    return x - math.tanh(x), math.tanh(x) ** 2


def log_sigmoid(x: float) -> tuple[float, float]:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x))), sigmoid(-x)[0]


def sparse_sigmoid(x: float) -> tuple[float, float]:
    return min(max((x + 1) / 2, 0.0), 1.0), 0.5 if abs(x) < 1 else 0.0


def sparse_plus(x: float) -> tuple[float, float]:
    if abs(x) >= 1:
        return max(x, 0.0), float(x > 0)
    return (x + 1) ** 2 / 4, (x + 1) / 2


def squareplus(b: float = 4.0) -> Scalar:
    def scalar(x: float) -> tuple[float, float]:
        r = math.sqrt(x * x + b)
        tail = b / 2 / (r + abs(x))
        return max(x, 0.0) + tail, 1 - tail / r if x > 0 else tail / r

    return scalar


def exponential(x: float) -> tuple[float, float]:
    return math.exp(x), math.exp(x)


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


def log_softmax(x: Any, output_gradient: Any, *, axis: int) -> dict[str, Any]:
    shape = shape_of(x)
    z, g = flatten(x), flatten(output_gradient)
    output, product = [0.0] * len(z), [0.0] * len(z)
    for row in lines(shape, axis):
        top = max(z[k] for k in row)
        log_total = top + math.log(math.fsum(math.exp(z[k] - top) for k in row))
        whole = math.fsum(g[k] for k in row)
        for k in row:
            output[k] = z[k] - log_total
            product[k] = g[k] - math.exp(output[k]) * whole
    return {"output": nest(output, shape), "input_gradient": nest(product, shape)}


def softmin(x: Any, output_gradient: Any, *, axis: int) -> dict[str, Any]:
    shape = shape_of(x)
    found = softmax(nest([-z for z in flatten(x)], shape), output_gradient, axis=axis)
    negated = nest([-d for d in flatten(found["input_gradient"])], shape)
    return {"output": found["output"], "input_gradient": negated}


def sparsemax(x: Any, output_gradient: Any, *, axis: int) -> dict[str, Any]:
    """The threshold is the largest of those that the first k of the falling inputs give."""
    shape = shape_of(x)
    z, g = flatten(x), flatten(output_gradient)
    output, product = [0.0] * len(z), [0.0] * len(z)
    for row in lines(shape, axis):
        falling = sorted((z[k] for k in row), reverse=True)
        limit = max((math.fsum(falling[: k + 1]) - 1) / (k + 1) for k in range(len(falling)))
        above = [k for k in row if z[k] > limit]
        mean = math.fsum(g[k] for k in above) / len(above)
        for k in above:
            output[k], product[k] = z[k] - limit, g[k] - mean
    return {"output": nest(output, shape), "input_gradient": nest(product, shape)}


def glu(x: Any, output_gradient: Any, *, axis: int) -> dict[str, Any]:
    shape = shape_of(x)
    axis %= len(shape)
    half = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
    z, g = flatten(x), flatten(output_gradient)
    output, product = [0.0] * len(g), [0.0] * len(z)
    for row, short in zip(lines(shape, axis), lines(half, axis), strict=True):
        for first, second, place in zip(row, row[len(short) :], short, strict=False):
            gate, rise = sigmoid(z[second])
            output[place] = z[first] * gate
            product[first], product[second] = g[place] * gate, g[place] * z[first] * rise
    return {"output": nest(output, half), "input_gradient": nest(product, shape)}


def maxout(x: Any, output_gradient: Any, *, group_size: int, axis: int) -> dict[str, Any]:
    shape = shape_of(x)
    axis %= len(shape)
    z, g = flatten(x), flatten(output_gradient)
    shorter = (*shape[:axis], shape[axis] // group_size, *shape[axis + 1 :])
    output, product = [0.0] * len(g), [0.0] * len(z)
    for row, short in zip(lines(shape, axis), lines(shorter, axis), strict=True):
        for j, place in enumerate(short):
            group = row[j * group_size : (j + 1) * group_size]
            winner = max(group, key=lambda k: z[k])
            output[place], product[winner] = z[winner], g[place]
    return {"output": nest(output, shorter), "input_gradient": nest(product, shape)}


def prelu(x: Any, output_gradient: Any, slope: Any, places: list[int]) -> dict[str, Any]:
    """``places`` holds, for each element of ``x``, which of the slopes is its own."""
    shape = shape_of(x)
    z, g, a = flatten(x), flatten(output_gradient), flatten(slope)
    output = [v if v > 0 else a[i] * v for v, i in zip(z, places, strict=True)]
    product = [d if v > 0 else a[i] * d for v, d, i in zip(z, g, places, strict=True)]
    terms = [
        [d * v for v, d, j in zip(z, g, places, strict=True) if v <= 0 and j == i] for i in range(len(a))
    ]
    return {
        "output": nest(output, shape),
        "input_gradient": nest(product, shape),
        "slope_gradient": nest([math.fsum(t) for t in terms], shape_of(slope)),
    }
