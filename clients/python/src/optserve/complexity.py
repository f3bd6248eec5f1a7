"""Time and memory that a described network needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

from numpy.typing import DTypeLike

from optserve import coercion, spec
from optserve._codec import dtypes
from optserve._transport.connection import Connection
from optserve.specs.layers import Network
from optserve.specs.optimizers import Optimizer
from optserve.v1 import function_service_pb2 as wire

AnyOptimizer: TypeAlias = Optimizer | type[Optimizer] | str
"""An optimizer, or the class or name of one that needs no field."""


@dataclass(frozen=True)
class Complexity:
    """Counts of a layer or a network.

    Operations and feature maps are of one forward pass of the whole batch.

    Attributes:
        trainable_parameters: parameters that an optimizer changes.
        non_trainable_parameters: parameters that it does not change: moving means and variances.
        parameter_bytes: bytes of all parameters.
        multiply_adds: products that are added into a sum, in matrix products and convolutions.
        flops: floating-point operations: 2 for each multiply-add, 1 for each other one.
        feature_map_bytes: bytes of the layers' outputs; 0 if an output shares its input's memory.
    """

    trainable_parameters: int
    non_trainable_parameters: int
    parameter_bytes: int
    multiply_adds: int
    flops: int
    feature_map_bytes: int

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.trainable_parameters + self.non_trainable_parameters

    @classmethod
    def of(cls, message: wire.Complexity) -> Complexity:
        """Decodes the counts of a server."""
        return cls(**{field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields})


@dataclass(frozen=True)
class LayerComplexity:
    """Counts of one layer.

    Attributes:
        name: its name.
        output_shape: shape of its output, without the batch.
        complexity: its counts.
    """

    name: str
    output_shape: tuple[int, ...]
    complexity: Complexity


@dataclass(frozen=True)
class NetworkComplexity:
    """Counts of a network.

    Attributes:
        layers: each layer, in order.
        total: the sum over the layers.
        optimizer_state_bytes: bytes of the optimizer's slots; 0 without an optimizer.
        network: the network, every field resolved.
        optimizer: the optimizer, every field resolved; None if none was given.
    """

    layers: tuple[LayerComplexity, ...]
    total: Complexity
    optimizer_state_bytes: int
    network: Network
    optimizer: Optimizer | None

    @classmethod
    def of(cls, message: wire.EstimateComplexityResponse) -> NetworkComplexity:
        """Decodes the estimate of a server."""
        optimizer = spec.decode(message.optimizer) if message.HasField("optimizer") else None
        return cls(
            layers=tuple(
                LayerComplexity(layer.name, tuple(layer.output_shape), Complexity.of(layer.complexity))
                for layer in message.layers
            ),
            total=Complexity.of(message.total),
            optimizer_state_bytes=message.optimizer_state_bytes,
            network=cast(Network, spec.decode(message.network)),
            optimizer=cast("Optimizer | None", optimizer),
        )


def estimate_complexity(
    connection: Connection,
    network: Network,
    batch_size: int,
    dtype: DTypeLike,
    optimizer: AnyOptimizer | None,
    timeout: float | None,
) -> NetworkComplexity:
    """See `Client.estimate_complexity`."""
    request = wire.EstimateComplexityRequest(
        network=spec.encode(Network.of(network, "network")),
        batch_size=coercion.whole(batch_size, "batch_size"),
        dtype=dtypes.TYPES[dtypes.check_dtype(dtype, dtypes.WIRE_DTYPES, "dtype")],
        optimizer=spec.encode(Optimizer.of(optimizer, "optimizer")) if optimizer is not None else None,
    )
    response = connection.call(connection.functions.EstimateComplexity, request, timeout)
    return NetworkComplexity.of(response)
