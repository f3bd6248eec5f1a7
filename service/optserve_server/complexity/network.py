"""A whole network: its layers' costs for a batch, and their sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape, check_extents
from optserve_server.errors import DomainError, Reason, out_of_range_error, within

MAX_LAYERS = 10_000
"""Layers that a network may have."""

MAX_RANK = 32
"""Dimensions that an input or output may have, as anywhere in the service."""

MAX_COUNT = 2**63 - 1
"""The largest number that an answer can hold."""


@dataclass(frozen=True)
class NamedLayer:
    """A layer, and what the answer is to call it."""

    name: str
    layer: Layer


@dataclass(frozen=True)
class Network:
    """Layers that each take the output of the one before.

    Raises:
        DomainError: FIELD_REQUIRED, OUT_OF_RANGE or LIMIT_EXCEEDED, naming the field.
    """

    layers: tuple[NamedLayer, ...]
    input_shape: Shape

    def __post_init__(self) -> None:
        if not self.layers:
            raise DomainError(Reason.FIELD_REQUIRED, "layers is required", field="layers")
        check_layer_count(len(self.layers))
        _check_rank(self.input_shape, "input_shape")
        check_extents(self.input_shape, "input_shape")


@dataclass(frozen=True)
class Complexity:
    """Counts of a layer or a network; operations and feature maps are those of a whole batch.

    Attributes:
        trainable_parameters: parameters that an optimizer changes.
        non_trainable_parameters: parameters that it does not.
        parameter_bytes: bytes of all parameters.
        multiply_adds: products that are added into a sum.
        flops: 2 for each multiply-add, 1 for each other operation.
        feature_map_bytes: bytes of the layers' outputs.
    """

    trainable_parameters: int = 0
    non_trainable_parameters: int = 0
    parameter_bytes: int = 0
    multiply_adds: int = 0
    flops: int = 0
    feature_map_bytes: int = 0

    def __add__(self, other: Complexity) -> Complexity:
        names = [field.name for field in dataclasses.fields(self)]
        return Complexity(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class LayerComplexity:
    """One layer's name, the shape of its output without the batch, its counts and trainable tensors."""

    name: str
    output_shape: Shape
    complexity: Complexity
    tensors: tuple[Shape, ...]


@dataclass(frozen=True)
class Estimate:
    """What a network takes, layer by layer and in all."""

    layers: tuple[LayerComplexity, ...]
    total: Complexity
    optimizer_state_bytes: int


def zero_state_size(shape: Shape) -> int:
    """State of a network without an optimizer."""
    return 0


def estimate_complexity(
    network: Network,
    batch_size: int,
    element_size: int,
    state_elements: Callable[[Shape], int] = zero_state_size,
) -> Estimate:
    """Counts what a network takes for one batch.

    Args:
        network: the network.
        batch_size: examples in the batch, at least 1.
        element_size: bytes of one number.
        state_elements: how many numbers of state an optimizer keeps for a tensor of a shape.

    Raises:
        DomainError: SHAPE_MISMATCH if a layer does not fit its input, OUT_OF_RANGE if
            a count would exceed `MAX_COUNT`; fields are paths within the network.
    """
    _check_counts("input_shape", batch_size * math.prod(network.input_shape) * element_size)
    layers, total, state = [], Complexity(), 0
    for index, layer in enumerate(_estimate_layers(network, batch_size, element_size)):
        total += layer.complexity
        state += sum(map(state_elements, layer.tensors)) * element_size
        _check_counts(f"layers[{index}]", *dataclasses.astuple(total), state)
        layers.append(layer)
    return Estimate(tuple(layers), total, state)


def check_layer_count(count: int) -> None:
    """Checks how many layers there are.

    Raises:
        DomainError: LIMIT_EXCEEDED with the field ``layers``.
    """
    if count > MAX_LAYERS:
        raise DomainError(
            Reason.LIMIT_EXCEEDED,
            f"there are {count} layers, more than {MAX_LAYERS}",
            field="layers",
            metadata={"limit": "max_layers", "value": MAX_LAYERS},
        )


def _estimate_layers(network: Network, batch_size: int, element_size: int) -> Iterator[LayerComplexity]:
    shape = network.input_shape
    for index, named in enumerate(network.layers):
        with within(f"layers[{index}]"):
            with within(named.layer.name):
                cost = named.layer.cost(shape)
            _check_rank(cost.output)
        name = named.name or f"{named.layer.name}_{index}"
        complexity = _batch_complexity(cost, batch_size, element_size)
        yield LayerComplexity(name, cost.output, complexity, cost.tensors)
        shape = cost.output


def _batch_complexity(cost: Cost, batch_size: int, element_size: int) -> Complexity:
    outputs = 0 if cost.is_view else math.prod(cost.output)
    return Complexity(
        trainable_parameters=cost.trainable_parameters,
        non_trainable_parameters=cost.non_trainable,
        parameter_bytes=(cost.trainable_parameters + cost.non_trainable) * element_size,
        multiply_adds=cost.multiply_adds * batch_size,
        flops=(2 * cost.multiply_adds + cost.operations) * batch_size,
        feature_map_bytes=outputs * batch_size * element_size,
    )


def _check_rank(shape: Sequence[int], field: str | None = None) -> None:
    if len(shape) > MAX_RANK:
        allowed = f"at most {MAX_RANK}"
        message = f"a shape has {len(shape)} dimensions, but may have {allowed}"
        raise out_of_range_error(field, len(shape), allowed, message)


def _check_counts(field: str, *counts: int) -> None:
    if max(counts) > MAX_COUNT:
        message = f"the counts as far as {field} do not fit 64 bits"
        raise out_of_range_error(field, max(counts), f"at most {MAX_COUNT}", message)
