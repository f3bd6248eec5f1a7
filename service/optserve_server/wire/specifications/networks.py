"""Described networks and their complexity as messages."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from optserve.v1 import function_service_pb2 as pb
from optserve.v1.network_spec_pb2 import LayerSpec, NetworkSpec
from optserve_server.complexity.base import MAX_EXTENT
from optserve_server.complexity.network import (
    MAX_RANK,
    Complexity,
    Estimate,
    NamedLayer,
    Network,
    check_layer_count,
)
from optserve_server.errors import DomainError, Reason, out_of_range_error, within
from optserve_server.hyperparameters import Chosen
from optserve_server.wire.fields.tensors import FLOAT32, wire_dtype_from
from optserve_server.wire.specifications.specs import algorithm_from, write_algorithm

MAX_LAYER_BYTES = 1024
"""Bytes that a layer's description may have: more than any layer with a sensible name takes."""


def network_from(message: NetworkSpec) -> Network:
    """The network that a message describes; fields of errors are paths within ``message``.

    Raises:
        DomainError: what `algorithm_from` and `Network` raise, and LIMIT_EXCEEDED.
    """
    check_layer_count(len(message.layers))
    layers = []
    for index, layer in enumerate(message.layers):
        with within(f"layers[{index}]"):
            _check_layer_size(layer)
            layers.append(NamedLayer(layer.name, algorithm_from(layer).algorithm))
    return Network(tuple(layers), tuple(message.input_shape[: MAX_RANK + 1]))


def batch_size_from(message: pb.EstimateComplexityRequest) -> int:
    """Examples in a batch; 1 by default.

    Raises:
        DomainError: OUT_OF_RANGE.
    """
    size = message.batch_size or 1
    if not 1 <= size <= MAX_EXTENT:
        allowed = f"in [1, {MAX_EXTENT}]"
        raise out_of_range_error("batch_size", size, allowed)
    return size


def element_type_from(message: pb.EstimateComplexityRequest) -> np.dtype[Any]:
    """The type of parameters, outputs and state; float32 by default.

    Raises:
        DomainError: UNSUPPORTED_VALUE or DTYPE_MISMATCH.
    """
    return wire_dtype_from(message.dtype, "dtype") or FLOAT32


def estimate_to(estimate: Estimate, network: Network) -> pb.EstimateComplexityResponse:
    """The answer, with the network as it was understood."""
    response = pb.EstimateComplexityResponse(
        total=_encode_complexity(estimate.total), optimizer_state_bytes=estimate.optimizer_state_bytes
    )
    response.network.input_shape.extend(network.input_shape)
    for counted, named in zip(estimate.layers, network.layers, strict=True):
        response.layers.add(
            name=counted.name,
            output_shape=counted.output_shape,
            complexity=_encode_complexity(counted.complexity),
        )
        write_algorithm(response.network.layers.add(name=counted.name), Chosen(named.layer))
    return response


def _check_layer_size(layer: LayerSpec) -> None:
    """Keeps a list of millions of numbers from being read only to be refused."""
    size = layer.ByteSize()
    if size > MAX_LAYER_BYTES:
        raise DomainError(
            Reason.LIMIT_EXCEEDED,
            f"the layer's description has {size} bytes, more than {MAX_LAYER_BYTES}",
            metadata={"limit": "max_layer_bytes", "value": MAX_LAYER_BYTES},
        )


def _encode_complexity(complexity: Complexity) -> pb.Complexity:
    return pb.Complexity(**dataclasses.asdict(complexity))
