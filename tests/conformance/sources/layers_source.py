"""Keras' layers: the shapes that they give, their weights, and XLA's count of their operations.

XLA counts the graph that Keras hands it, so its count stands for a layer only where that graph
does what the contract counts, and all of it. Not compared are SAME padding, whose products with
zeros XLA leaves out, normalization, which Keras computes from other formulas, and attention,
where Keras adds a mask's handling. There the oracle's count is recorded.

No answer states the shapes of the trainable tensors, from which the service counts an
optimizer's state, so there are none in the vectors: they are compared here, with the service's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from optserve_server.complexity import REGISTRY
from tests.conformance.oracle import layers as oracle
from tests.conformance.sources.row import Row
from tests.conformance.specs import resolve

L = keras.layers
SAME = {"padding": "LAYER_PADDING_SAME"}
AVERAGE = {"form": "POOLING_FORM_AVERAGE"}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table: a layer of the contract and the same one of Keras."""

    file: str
    case: str
    shape: Sequence[int]
    fields: Mapping[str, Any]
    make: Callable[[], keras.Layer]
    by_xla: bool = False


def rows() -> list[Row]:
    """The table."""
    tables = (dense, convolutions, poolings, recurrent, others)
    return [row_of(line) for table in tables for line in table()]


def row_of(line: Line) -> Row:
    def count() -> dict[str, Any]:
        return oracle.count(line.file, line.fields, line.shape)

    def framework() -> dict[str, Any]:
        with in_float32():
            layer = line.make()
            found = count() | keras_counts(layer, line.shape)
            assert list_tensors(line) == keras_tensors(layer), f"{line.file}-{line.case}"
            return found | ({"flops": xla_flops(layer, line.shape)} if line.by_xla else {})

    counter = "XLA's" if line.by_xla else "the oracle's"
    return Row(
        "layers", line.file, line.case, "keras", {line.file: line.fields}, {"shape": line.shape}, count,
        framework, note=f"flops are {counter}, multiply_adds the oracle's",
    )  # fmt: skip


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Makes Keras' layers in float32: in float64 JAX spells tanh out, and XLA counts its parts."""
    before = keras.config.floatx()
    keras.config.set_floatx("float32")
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def keras_counts(layer: keras.Layer, shape: Sequence[int]) -> dict[str, Any]:
    """What Keras says: the output's shape, and how many weights there are."""
    x = keras.Input(shape)
    y = layer(x, x) if isinstance(layer, L.MultiHeadAttention) else layer(x)
    trainable = size_of(layer.trainable_weights)
    assert layer.count_params() == trainable + size_of(layer.non_trainable_weights)
    return {
        "output_shape": list(y.shape[1:]),
        "trainable": trainable,
        "non_trainable": size_of(layer.non_trainable_weights),
    }


def list_tensors(line: Line) -> list[tuple[int, ...]]:
    """The shapes that the service gives to the trainable tensors."""
    return list(resolve(REGISTRY, {line.file: line.fields}).cost(tuple(line.shape)).tensors)


def keras_tensors(layer: keras.Layer) -> list[tuple[int, ...]]:
    """The shapes of Keras' trainable weights.

    A depthwise kernel is [window, channels, multiplier] there; the contract knows it as a
    convolution of as many groups as channels, whose kernel is [window, 1, filters].
    """
    found = [tuple(weight.shape) for weight in layer.trainable_weights]
    if isinstance(layer, L.DepthwiseConv2D):
        *window, channels, multiplier = found[0]
        found[0] = (*window, 1, channels * multiplier)
    return found


def size_of(weights: Sequence[Any]) -> int:
    return sum(int(weight.value.size) for weight in weights)


def xla_flops(layer: keras.Layer, shape: Sequence[int]) -> int:
    """XLA's operations and functions of a forward pass of one example."""

    def forward(trainable: Any, other: Any, x: Any) -> Any:
        return layer.stateless_call(trainable, other, x)[0]

    weights = [[w.value for w in ws] for ws in (layer.trainable_variables, layer.non_trainable_variables)]
    lowered = jax.jit(forward).lower(*weights, jnp.zeros((1, *shape), layer.compute_dtype))
    costs = lowered.cost_analysis()
    return round(costs.get("flops", 0.0) + costs.get("transcendentals", 0.0))


def dense() -> Iterator[Line]:
    yield Line("dense", "keras", [7], {"units": 5}, lambda: L.Dense(5), True)
    yield Line("dense", "keras_no_bias", [7], {"units": 5, "use_bias": False},
               lambda: L.Dense(5, use_bias=False), True)  # fmt: skip
    yield Line("dense", "keras_places", [3, 4, 6], {"units": 2}, lambda: L.Dense(2), True)


def convolution(
    case: str, shape: Sequence[int], fields: Mapping[str, Any], by_xla: bool = True, **keywords: Any
) -> Line:
    """A convolution with Keras' keywords beside the contract's fields."""
    kind = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}[len(fields["kernel"])]
    make = functools.partial(kind, fields["filters"], fields["kernel"], **keywords)
    return Line("convolution", case, shape, fields, make, by_xla)


def convolutions() -> Iterator[Line]:
    yield convolution("keras_1d", [11, 3], {"filters": 4, "kernel": [3]})
    yield convolution("keras_2d", [9, 7, 3], {"filters": 4, "kernel": [3, 2]})
    yield convolution("keras_3d", [5, 6, 7, 2], {"filters": 3, "kernel": [2, 3, 4]})
    yield convolution("keras_no_bias", [6, 6, 2], {"filters": 4, "kernel": [3, 3], "use_bias": False},
                      use_bias=False)  # fmt: skip
    yield convolution("keras_strides", [10, 9, 3], {"filters": 4, "kernel": [3, 3], "strides": [2, 3]},
                      strides=(2, 3))  # fmt: skip
    yield convolution("keras_dilation", [12, 11, 3], {"filters": 4, "kernel": [3, 3], "dilation": [2, 3]},
                      dilation_rate=(2, 3))  # fmt: skip
    yield convolution("keras_groups", [6, 6, 6], {"filters": 9, "kernel": [3, 3], "groups": 3}, groups=3)
    yield Line("convolution", "keras_depthwise", [6, 7, 5],
               {"filters": 10, "kernel": [3, 3], "groups": 5},
               lambda: L.DepthwiseConv2D(3, depth_multiplier=2), True)  # fmt: skip
    yield convolution("keras_pointwise", [6, 7, 5], {"filters": 4, "kernel": [1, 1]})
    for strides in ([1, 1], [2, 3]):
        fields = {"filters": 4, "kernel": [3, 2], "strides": strides, **SAME}
        name = "keras_same" if strides == [1, 1] else "keras_same_strides"
        yield convolution(name, [7, 8, 3], fields, False, strides=strides, padding="same")
    yield convolution("keras_same_large_kernel", [4, 3], {"filters": 2, "kernel": [9], **SAME}, False,
                      padding="same")  # fmt: skip
    yield convolution("keras_same_dilation", [12, 3], {"filters": 2, "kernel": [3], "dilation": [2], **SAME},
                      False, padding="same", dilation_rate=2)  # fmt: skip


def poolings() -> Iterator[Line]:
    yield Line("pooling", "keras_1d", [11, 3], {"window": [2]}, lambda: L.MaxPooling1D(2), True)
    yield Line("pooling", "keras_2d", [7, 8, 3], {"window": [2, 3]}, lambda: L.MaxPooling2D((2, 3)), True)
    yield Line("pooling", "keras_3d", [6, 6, 6, 2], {"window": [2, 3, 2]},
               lambda: L.MaxPooling3D((2, 3, 2)), True)  # fmt: skip
    yield Line("pooling", "keras_average", [7, 8, 3], {"window": [2, 3], **AVERAGE},
               lambda: L.AveragePooling2D((2, 3)), True)  # fmt: skip
    yield Line("pooling", "keras_strides", [9, 9, 2], {"window": [3, 3], "strides": [2, 1]},
               lambda: L.MaxPooling2D(3, strides=(2, 1)), True)  # fmt: skip
    yield Line("pooling", "keras_same", [9, 8, 2], {"window": [2, 3], **SAME},
               lambda: L.MaxPooling2D((2, 3), padding="same"))  # fmt: skip
    yield Line("pooling", "keras_same_strides", [9, 2], {"window": [4], "strides": [2], **SAME, **AVERAGE},
               lambda: L.AveragePooling1D(4, strides=2, padding="same"))  # fmt: skip
    name = "global_pooling"
    yield Line(name, "keras_1d", [11, 3], {}, L.GlobalMaxPooling1D, True)
    yield Line(name, "keras_2d", [7, 8, 3], {}, L.GlobalMaxPooling2D, True)
    yield Line(name, "keras_3d", [3, 4, 5, 2], {}, L.GlobalMaxPooling3D, True)
    yield Line(name, "keras_average", [7, 8, 3], dict(AVERAGE), L.GlobalAveragePooling2D, True)
    yield Line(name, "keras_keep_dimensions", [7, 8, 3], {"keep_dimensions": True},
               lambda: L.GlobalMaxPooling2D(keepdims=True), True)  # fmt: skip


def recurrent() -> Iterator[Line]:
    for file, kind in (("simple_rnn", L.SimpleRNN), ("lstm", L.LSTM), ("gru", L.GRU)):
        yield recurrence(file, "keras", kind)
        yield recurrence(file, "keras_no_bias", kind, use_bias=False)
        yield recurrence(file, "keras_sequences", kind, return_sequences=True)
        yield bidirectional(file, "keras_bidirectional", kind, False)
        yield bidirectional(file, "keras_bidirectional_sequences", kind, True)
    yield recurrence("gru", "keras_reset_before", L.GRU, reset_after=False)
    yield recurrence("gru", "keras_reset_before_no_bias", L.GRU, reset_after=False, use_bias=False)


def recurrence(file: str, case: str, kind: Any, **fields: bool) -> Line:
    """A recurrent layer of 4 units on 6 steps of 3 features."""
    make = functools.partial(kind, 4, **countable(file), **fields)
    return Line(file, case, [6, 3], {"units": 4, **fields}, make, True)


def countable(file: str) -> dict[str, Any]:
    """What lets XLA count a recurrent layer.

    It counts the body of a loop once, and a sigmoid as the four operations that make it up, where
    the contract counts a function.
    """
    return {"unroll": True} | ({} if file == "simple_rnn" else {"recurrent_activation": "tanh"})


def bidirectional(file: str, case: str, kind: Any, sequences: bool) -> Line:
    fields = {"units": 4, "bidirectional": True, **({"return_sequences": True} if sequences else {})}
    inner = functools.partial(kind, 4, return_sequences=sequences, **countable(file))
    return Line(file, case, [6, 3], fields, lambda: L.Bidirectional(inner()), True)


def others() -> Iterator[Line]:
    yield Line("embedding", "keras", [6], {"vocabulary": 11, "dimension": 3}, lambda: L.Embedding(11, 3))
    yield Line("embedding", "keras_number", [], {"vocabulary": 11, "dimension": 3},
               lambda: L.Embedding(11, 3))  # fmt: skip
    for file, kind in (("batch_normalization", L.BatchNormalization),
                       ("layer_normalization", L.LayerNormalization)):  # fmt: skip
        yield Line(file, "keras", [4, 5, 3], {}, kind)
        for case, fields in (("keras_no_offset", {"center": False}), ("keras_no_factor", {"scale": False}),
                             ("keras_neither", {"center": False, "scale": False})):  # fmt: skip
            yield Line(file, case, [6], fields, functools.partial(kind, **fields))
    yield from attention()
    yield Line("flatten", "keras", [3, 4, 2], {}, L.Flatten, True)
    yield Line("elementwise", "keras", [3, 4], {}, lambda: L.Activation("tanh"), True)
    yield Line("elementwise", "keras_operations", [5], {"operations": 2},
               lambda: L.Rescaling(2.0, offset=1.0), True)  # fmt: skip
    yield Line("dropout", "keras", [3, 4], {}, lambda: L.Dropout(0.5), True)


def attention() -> Iterator[Line]:
    name, heads = "multi_head_attention", {"heads": 2, "key_dim": 3}
    yield Line(name, "keras", [5, 4], heads, lambda: L.MultiHeadAttention(2, 3))
    yield Line(name, "keras_values", [5, 4], {**heads, "value_dim": 7},
               lambda: L.MultiHeadAttention(2, 3, value_dim=7))  # fmt: skip
    yield Line(name, "keras_no_bias", [5, 4], {**heads, "use_bias": False},
               lambda: L.MultiHeadAttention(2, 3, use_bias=False))  # fmt: skip
