"""Whole networks against numbers worked out by hand, and what belongs to a network alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from optserve_server.complexity.base import Layer
from optserve_server.complexity.convolution import Convolution
from optserve_server.complexity.dense import Dense
from optserve_server.complexity.embedding import Embedding
from optserve_server.complexity.flatten import Flatten
from optserve_server.complexity.lstm import LSTM
from optserve_server.complexity.multi_head_attention import MultiHeadAttention
from optserve_server.complexity.network import (
    MAX_COUNT,
    MAX_LAYERS,
    Complexity,
    Estimate,
    NamedLayer,
    Network,
    estimate_complexity,
)
from optserve_server.complexity.pooling import Pooling
from optserve_server.complexity.windows import LayerPadding
from optserve_server.errors import DomainError, Reason

LENET_5 = (
    Convolution(filters=6, kernel=(5, 5)),
    Pooling(window=(2, 2)),
    Convolution(filters=16, kernel=(5, 5)),
    Pooling(window=(2, 2)),
    Convolution(filters=120, kernel=(5, 5)),
    Flatten(),
    Dense(units=84),
    Dense(units=10),
)


def network(shape: tuple[int, ...], *layers: Layer) -> Network:
    return Network(tuple(NamedLayer("", layer) for layer in layers), shape)


def count(shape: tuple[int, ...], *layers: Layer, batch: int = 1, size: int = 4, slots: int = 0) -> Estimate:
    return estimate_complexity(network(shape, *layers), batch, size, lambda tensor: slots * math.prod(tensor))


def vgg_16() -> list[Layer]:
    """Simonyan and Zisserman, 2014, configuration D."""
    layers: list[Layer] = []
    for filters, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [Convolution(filters=filters, kernel=(3, 3), padding=LayerPadding.SAME)] * times
        layers.append(Pooling(window=(2, 2)))
    return [*layers, Flatten(), Dense(units=4096), Dense(units=4096), Dense(units=1000)]


def test_lenet_5() -> None:
    """32x32 in; C1 6@28x28, C3 16@10x10 from all six maps, C5 120, F6 84, 10 out."""
    found = count((32, 32, 1), *LENET_5)
    shapes = [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16), (1, 1, 120), (120,), (84,), (10,)]
    assert [layer.output_shape for layer in found.layers] == shapes
    parameters = [layer.complexity.trainable_parameters for layer in found.layers]
    assert parameters == [156, 0, 2416, 0, 48120, 0, 10164, 850]
    products = [layer.complexity.multiply_adds for layer in found.layers]
    assert products == [117_600, 0, 240_000, 0, 48_000, 0, 10_080, 840]
    assert found.total.trainable_parameters == 61_706
    assert found.total.multiply_adds == 416_520
    biases, comparisons = 4704 + 1600 + 120 + 84 + 10, 3 * (1176 + 400)
    assert found.total.flops == 2 * 416_520 + biases + comparisons
    assert found.total.feature_map_bytes == 4 * (4704 + 1176 + 1600 + 400 + 120 + 84 + 10)


def test_a_block_of_vgg_16() -> None:
    found = count((224, 224, 3), *vgg_16()[:3])
    assert [layer.complexity.trainable_parameters for layer in found.layers] == [1792, 36_928, 0]
    places = 224 * 224
    expected = [places * 64 * 27, places * 64 * 576, 0]
    assert [layer.complexity.multiply_adds for layer in found.layers] == expected
    assert expected[:2] == [86_704_128, 1_849_688_064]
    assert found.layers[-1].output_shape == (112, 112, 64)


def test_vgg_16_is_what_is_published() -> None:
    """138.4 million parameters, 15.5 thousand million multiply-adds."""
    total = count((224, 224, 3), *vgg_16()).total
    assert total.trainable_parameters == 138_357_544
    assert total.multiply_adds == 15_346_630_656 + 25_088 * 4096 + 4096 * 4096 + 4096 * 1000


def test_one_lstm_layer() -> None:
    """20 steps of 10 features to 32 units: four gates of 32 rows of 10 + 32, and biases."""
    found = count((20, 10), LSTM(units=32))
    assert found.total.trainable_parameters == 4 * (10 * 32 + 32 * 32 + 32) == 5504
    assert found.total.multiply_adds == 20 * 4 * 32 * 42 == 107_520
    assert found.total.flops == 2 * 107_520 + 20 * 32 * 17


def test_the_transformers_attention() -> None:
    """512 features, 8 heads of 64, 10 steps: four square projections, and 10x10 scores twice."""
    found = count((10, 512), MultiHeadAttention(heads=8, key_dim=64))
    assert found.total.trainable_parameters == 4 * (512 * 512 + 512) == 1_050_624
    assert found.total.multiply_adds == 4 * 10 * 512 * 512 + 2 * 10 * 10 * 512


def test_a_batch_multiplies_work_and_feature_maps_alone() -> None:
    one, many = count((32, 32, 1), *LENET_5).total, count((32, 32, 1), *LENET_5, batch=7).total
    assert many == dataclasses.replace(
        one,
        multiply_adds=7 * one.multiply_adds,
        flops=7 * one.flops,
        feature_map_bytes=7 * one.feature_map_bytes,
    )


def test_the_element_type_multiplies_bytes_alone() -> None:
    two = count((32, 32, 1), *LENET_5, size=2, slots=3)
    eight = count((32, 32, 1), *LENET_5, size=8, slots=3)
    assert two.total.parameter_bytes == 2 * 61_706
    assert two.optimizer_state_bytes == 3 * 2 * 61_706
    assert eight.optimizer_state_bytes == 4 * two.optimizer_state_bytes
    assert eight.total == dataclasses.replace(
        two.total,
        parameter_bytes=4 * two.total.parameter_bytes,
        feature_map_bytes=4 * two.total.feature_map_bytes,
    )


def test_the_total_is_the_sum() -> None:
    found = count((32, 32, 1), *LENET_5, batch=3)
    assert sum((layer.complexity for layer in found.layers), start=Complexity()) == found.total


def test_layers_without_a_name_are_called_by_kind_and_position() -> None:
    named = Network((NamedLayer("", Dense(units=1)), NamedLayer("out", Dense(units=1))), (2,))
    assert [layer.name for layer in estimate_complexity(named, 1, 4).layers] == ["dense_0", "out"]


WRONG: list[tuple[tuple[int, ...], list[Layer], Reason, str]] = [
    ((), [Dense(units=1)], Reason.SHAPE_MISMATCH, "layers[0].dense"),
    ((3,), [Dense(units=1), LSTM(units=1)], Reason.SHAPE_MISMATCH, "layers[1].lstm"),
    ((4, 4), [Convolution(filters=1, kernel=(3, 3))], Reason.SHAPE_MISMATCH, "layers[0].convolution.kernel"),
    ((4, 2, 1), [Convolution(filters=1, kernel=(3, 3))], Reason.SHAPE_MISMATCH,
     "layers[0].convolution.kernel"),
    ((4, 1), [Convolution(filters=1, kernel=(3,), dilation=(2,))], Reason.SHAPE_MISMATCH,
     "layers[0].convolution.kernel"),
    ((4, 3), [Convolution(filters=2, kernel=(3,), groups=2)], Reason.SHAPE_MISMATCH,
     "layers[0].convolution.groups"),
    ((1, 1), [Pooling(window=(2,))], Reason.SHAPE_MISMATCH, "layers[0].pooling.window"),
    ((4, 0, 1), [Flatten()], Reason.OUT_OF_RANGE, "input_shape[1]"),
    ((10**9 + 1,), [Flatten()], Reason.OUT_OF_RANGE, "input_shape[0]"),
    ((1,) * 33, [Flatten()], Reason.OUT_OF_RANGE, "input_shape"),
    ((10**9,) * 3, [Flatten()], Reason.OUT_OF_RANGE, "input_shape"),
    ((1,) * 32, [Embedding(vocabulary=2, dimension=2)], Reason.OUT_OF_RANGE, "layers[0]"),
    ((10**9,), [Dense(units=10**9)] * 3, Reason.OUT_OF_RANGE, "layers[2]"),
    ((10**9,), [Embedding(vocabulary=1, dimension=10**9)] * 2, Reason.OUT_OF_RANGE, "layers[1]"),
    ((1,), [], Reason.FIELD_REQUIRED, "layers"),
    ((1,), [Flatten()] * (MAX_LAYERS + 1), Reason.LIMIT_EXCEEDED, "layers"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "layers", "reason", "field"), WRONG)
def test_what_does_not_fit_is_told_by_its_path(
    shape: tuple[int, ...], layers: list[Layer], reason: Reason, field: str
) -> None:
    with pytest.raises(DomainError) as caught:
        count(shape, *layers)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("make", "reason", "field"),
    [
        (lambda: Convolution(filters=4, kernel=(3, 0)), Reason.OUT_OF_RANGE, "kernel[1]"),
        (lambda: Convolution(filters=4, kernel=(1,) * 4), Reason.OUT_OF_RANGE, "kernel"),
        (lambda: Convolution(filters=4, kernel=()), Reason.OUT_OF_RANGE, "kernel"),
        (lambda: Convolution(filters=0, kernel=(1,)), Reason.OUT_OF_RANGE, "filters"),
        (lambda: Convolution(filters=4, kernel=(1,), groups=3), Reason.CONFLICTING_FIELDS, "groups"),
        (lambda: Convolution(filters=4, kernel=(1, 1), strides=(1,)), Reason.CONFLICTING_FIELDS, "strides"),
        (lambda: Convolution(filters=4, kernel=(1,), strides=(-1,)), Reason.OUT_OF_RANGE, "strides[0]"),
        (lambda: Convolution(filters=4, kernel=(1,), dilation=(0,)), Reason.OUT_OF_RANGE, "dilation[0]"),
        (lambda: Pooling(window=(2, 2), strides=(1, 1, 1)), Reason.CONFLICTING_FIELDS, "strides"),
        (lambda: Pooling(window=(10**9 + 1,)), Reason.OUT_OF_RANGE, "window[0]"),
        (lambda: Dense(units=10**9 + 1), Reason.OUT_OF_RANGE, "units"),
        (lambda: MultiHeadAttention(heads=1, key_dim=0), Reason.OUT_OF_RANGE, "key_dim"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(make: Any, reason: Reason, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        make()
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_counts_go_up_to_what_an_answer_can_hold() -> None:
    found = count((10**9,), Dense(units=10**9, use_bias=False), size=2, batch=4)
    assert found.total.flops == 8 * 10**18 < MAX_COUNT < 10**19
    with pytest.raises(DomainError, match="64 bits"):
        count((10**9,), Dense(units=10**9, use_bias=False), size=2, slots=5)
    with pytest.raises(DomainError, match="64 bits"):
        count((10**9,), Dense(units=10**9, use_bias=False), size=2, batch=5)
