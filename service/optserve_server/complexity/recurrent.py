"""Base class of recurrent layers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape, require_rank
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Recurrent(Layer):
    """A state h of u units that walks over [time, features].

    Each of its gates takes x*W + h*U + b. With d features, T steps and G gates:

        parameters     G*(d*u + u*u + u), or what `biases_per_unit` says for the last term
        multiply-adds  T*G*u*(d + u)
        besides        T*u*`operations_per_unit`

    and twice that where a second layer runs backwards.
    """

    gates: ClassVar[int]

    units: int = hyper(ge=1, le=MAX_EXTENT)
    use_bias: bool = hyper(True)
    return_sequences: bool = hyper(False)
    bidirectional: bool = hyper(False)

    @property
    def biases_per_unit(self) -> int:
        """How many biases each unit has."""
        return self.gates * self.use_bias

    @property
    def bias_shapes(self) -> tuple[Shape, ...]:
        """Shapes of one direction's biases."""
        return ((self.gates * self.units,),) * self.use_bias

    @property
    @abstractmethod
    def operations_per_unit(self) -> int:
        """Operations of one unit in one step beside the matrix products."""

    def cost(self, shape: Shape) -> Cost:
        require_rank(shape, range(2, 3), "[time, features]")
        (time, features), directions = shape, 2 if self.bidirectional else 1
        width = self.units * directions
        weights, wide = self.gates * (features + self.units), self.gates * self.units
        tensors = ((features, wide), (self.units, wide), *self.bias_shapes)
        return Cost(
            (time, width) if self.return_sequences else (width,),
            tensors=tensors * directions,
            multiply_adds=time * width * weights,
            operations=time * width * self.operations_per_unit,
        )
