"""Time and memory that a described network needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from optserve.html_tables import render_fields, render_rows
from optserve.message_record import MessageRecord
from optserve.specs.layers import Network
from optserve.specs.optimizers import Optimizer
from optserve.v1 import function_service_pb2 as wire

AnyOptimizer: TypeAlias = Optimizer | type[Optimizer] | str
"""An optimizer, or the class or name of one that needs no field."""


@dataclass(frozen=True)
class Complexity(MessageRecord, message=wire.Complexity):
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


@dataclass(frozen=True)
class LayerComplexity(MessageRecord, message=wire.LayerComplexity):
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
class NetworkComplexity(MessageRecord, message=wire.EstimateComplexityResponse):
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

    def _repr_html_(self) -> str:
        counts = "multiply_adds", "flops", "parameter_bytes", "feature_map_bytes"
        columns = "layer", "output_shape", "parameters", *counts
        described = [
            *((layer.name, list(layer.output_shape), layer.complexity) for layer in self.layers),
            ("total", None, self.total),
        ]
        rows = [
            (name, shape, c.parameters, *(getattr(c, count) for count in counts))
            for name, shape, c in described
        ]
        layers = render_rows("", columns, rows)
        state = self.optimizer_state_bytes or None
        return render_fields(
            "Complexity", {"layers": layers, "optimizer": self.optimizer, "optimizer_state_bytes": state}
        )
