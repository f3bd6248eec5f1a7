"""What layers take, counted by walking through them product by product.

Nothing is computed by a formula: every place, channel and time step is visited, every
weight met is remembered, and every product and operation is counted where it happens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Shape = Sequence[int]


class Tally:
    """Counts of one layer on one example."""

    def __init__(self) -> None:
        self.weights: set[Hashable] = set()
        self.moving: set[Hashable] = set()
        self.multiply_adds = 0
        self.operations = 0

    def dot(self, weights: Iterable[Hashable]) -> None:
        """A sum of inputs times weights."""
        for weight in weights:
            self.weights.add(weight)
            self.multiply_adds += 1

    def product(self, length: int) -> None:
        """A sum of inputs times inputs."""
        self.multiply_adds += length

    def with_weight(self, weight: Hashable, wanted: bool = True) -> None:
        """One operation with a weight, such as the addition of a bias."""
        if wanted:
            self.weights.add(weight)
            self.operations += 1

    def do(self, *operations: str) -> None:
        """Operations, named for the reader."""
        self.operations += len(operations)


def count(kind: str, fields: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """The answer that the corpus holds for a layer and an input shape."""
    tally = Tally()
    output = WALKS[kind](tally, shape, **fields)
    return {
        "output_shape": list(output),
        "trainable": len(tally.weights),
        "non_trainable": len(tally.moving),
        "multiply_adds": tally.multiply_adds,
        "flops": 2 * tally.multiply_adds + tally.operations,
    }


def indices(shape: Shape) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


def dense(t: Tally, shape: Shape, units: int, use_bias: bool = True) -> Shape:
    *outer, features = shape
    for _, unit in itertools.product(indices(outer), range(units)):
        t.dot((feature, unit) for feature in range(features))
        t.with_weight(("bias", unit), use_bias)
    return [*outer, units]


def starts(extent: int, window: int, stride: int, dilation: int, padding: str) -> list[int]:
    """Where windows start; with padding, one for each stride."""
    found = range(0, extent, stride)
    if padding == "LAYER_PADDING_SAME":
        return list(found)
    return [start for start in found if start + dilation * (window - 1) < extent]


def windows(
    shape: Shape, window: Shape, strides: Shape | None, dilation: Shape | None, padding: str
) -> list[list[int]]:
    ones = [1] * len(window)
    rows = zip(shape, window, strides or ones, dilation or ones, strict=False)
    return [starts(*row, padding) for row in rows]


def convolution(
    t: Tally, shape: Shape, filters: int, kernel: Shape, strides: Shape | None = None,
    padding: str = "LAYER_PADDING_VALID", dilation: Shape | None = None, groups: int = 1,
    use_bias: bool = True,
) -> Shape:  # fmt: skip
    spots = windows(shape, kernel, strides, dilation, padding)
    channels = shape[-1] // groups
    for _, output in itertools.product(itertools.product(*spots), range(filters)):
        t.dot((spot, channel, output) for spot in indices(kernel) for channel in range(channels))
        t.with_weight(("bias", output), use_bias)
    return [*map(len, spots), filters]


def reduce(t: Tally, elements: int, form: str) -> None:
    """The largest or the mean of some elements."""
    for _ in range(elements - 1):
        t.do("compare" if form == "POOLING_FORM_MAX" else "add")
    if form == "POOLING_FORM_AVERAGE":
        t.do("divide")


def pooling(
    t: Tally, shape: Shape, window: Shape, strides: Shape | None = None,
    padding: str = "LAYER_PADDING_VALID", form: str = "POOLING_FORM_MAX",
) -> Shape:  # fmt: skip
    spots = windows(shape, window, strides or window, None, padding)
    for _ in itertools.product(*spots, range(shape[-1])):
        reduce(t, len(list(indices(window))), form)
    return [*map(len, spots), shape[-1]]


def global_pooling(
    t: Tally, shape: Shape, form: str = "POOLING_FORM_MAX", keep_dimensions: bool = False
) -> Shape:
    for _ in range(shape[-1]):
        reduce(t, len(list(indices(shape[:-1]))), form)
    return [*([1] * (len(shape) - 1) if keep_dimensions else []), shape[-1]]


def recurrent(step: Callable[..., None]) -> Callable[..., Shape]:
    """A layer that takes ``step`` for each unit, time step and direction."""

    def walk(
        t: Tally, shape: Shape, units: int, return_sequences: bool = False, bidirectional: bool = False,
        **fields: bool,
    ) -> Shape:  # fmt: skip
        (time, features), directions = shape, 1 + bidirectional
        for direction, _, unit in indices((directions, time, units)):
            step(t, lambda gate, at=(direction, unit): gate_products(t, gate, at, features, units),
                 (direction, unit), **fields)  # fmt: skip
        output = [units * directions]
        return [time, *output] if return_sequences else output

    return walk


def gate_products(t: Tally, gate: str, at: tuple[int, int], features: int, units: int) -> None:
    """x*W and h*U for one unit's gate."""
    t.dot((gate, at, "x", feature) for feature in range(features))
    t.dot((gate, at, "h", unit) for unit in range(units))


def rnn_step(t: Tally, products: Callable[[str], None], at: Any, use_bias: bool = True) -> None:
    products("h")
    t.do("sum")
    t.with_weight(("bias", at), use_bias)
    t.do("tanh")


def lstm_step(t: Tally, products: Callable[[str], None], at: Any, use_bias: bool = True) -> None:
    for gate in "ifgo":
        products(gate)
        t.do("sum")
        t.with_weight(("bias", gate, at), use_bias)
        t.do("function")
    t.do("f*c", "i*g", "add")
    t.do("tanh", "o*tanh")


def gru_step(
    t: Tally, products: Callable[[str], None], at: Any, use_bias: bool = True, reset_after: bool = True
) -> None:
    for gate in "zrc":
        products(gate)
        t.do("sum", "function")
        t.with_weight(("input bias", gate, at), use_bias)
        t.with_weight(("recurrent bias", gate, at), use_bias and reset_after)
    t.do("r*" + ("h*U" if reset_after else "h"))
    t.do("z*h", "1-z", "(1-z)*c", "add")


def embedding(t: Tally, shape: Shape, vocabulary: int, dimension: int) -> Shape:
    t.weights.update(indices((vocabulary, dimension)))
    return [*shape, dimension]


def batch_normalization(t: Tally, shape: Shape, center: bool = True, scale: bool = True) -> Shape:
    for *_, channel in indices(shape):
        t.moving |= {("mean", channel), ("variance", channel)}
        t.weights |= {("gamma", channel)} if scale else set()
        t.weights |= {("beta", channel)} if center else set()
        t.do("a*x", "+ b")  # whatever is learnt, the statistics make an a and a b
    return shape


def layer_normalization(t: Tally, shape: Shape, center: bool = True, scale: bool = True) -> Shape:
    *outer, features = shape
    for _ in indices(outer):
        reduce(t, features, "POOLING_FORM_AVERAGE")
        for feature in range(features):
            t.do("subtract the mean", "square", "divide by the deviation")
            t.with_weight(("gamma", feature), scale)
            t.with_weight(("beta", feature), center)
        reduce(t, features, "POOLING_FORM_AVERAGE")
        t.do("add epsilon", "inverse root")
    return shape


def multi_head_attention(
    t: Tally, shape: Shape, heads: int, key_dim: int, value_dim: int = 0, use_bias: bool = True
) -> Shape:
    time, features = shape
    values = value_dim or key_dim
    for _, head in indices((time, heads)):
        for name, width in (("q", key_dim), ("k", key_dim), ("v", values)):
            for unit in range(width):
                t.dot((name, head, unit, feature) for feature in range(features))
                t.with_weight((name, head, unit), use_bias)
        for _ in range(key_dim):
            t.do("scale the query")
        attend(t, time, key_dim, values)
    for _, feature in indices((time, features)):
        t.dot(("o", unit, feature) for unit in indices((heads, values)))
        t.with_weight(("o", feature), use_bias)
    return shape


def attend(t: Tally, time: int, key_dim: int, value_dim: int) -> None:
    """One query's scores over all keys, their softmax, and the mean of the values."""
    for _ in range(time):
        t.product(key_dim)
        t.do("subtract the largest", "exponential", "divide by the sum")
    reduce(t, time, "POOLING_FORM_MAX")
    for _ in range(time - 1):
        t.do("add to the sum")
    for _ in range(value_dim):
        t.product(time)


def flatten(t: Tally, shape: Shape) -> Shape:
    return [len(list(indices(shape)))]


def elementwise(t: Tally, shape: Shape, operations: int = 1) -> Shape:
    for _ in itertools.product(indices(shape), range(operations)):
        t.do("operation")
    return shape


def dropout(t: Tally, shape: Shape) -> Shape:
    return shape


WALKS: dict[str, Callable[..., Shape]] = {
    "dense": dense,
    "convolution": convolution,
    "pooling": pooling,
    "global_pooling": global_pooling,
    "simple_rnn": recurrent(rnn_step),
    "lstm": recurrent(lstm_step),
    "gru": recurrent(gru_step),
    "embedding": embedding,
    "batch_normalization": batch_normalization,
    "layer_normalization": layer_normalization,
    "multi_head_attention": multi_head_attention,
    "flatten": flatten,
    "elementwise": elementwise,
    "dropout": dropout,
}
"""The walk through each kind of layer; arguments are the message's fields, defaults Keras'."""
