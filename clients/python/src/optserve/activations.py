"""Activations.

Written by tools/generate_specs.py from optserve/v1/activation_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.enums import Convention
from optserve.spec import Choice
from optserve.v1 import activation_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Activation(Choice, message=activation_spec_pb2.ActivationSpec, oneof="activation"):
    """An activation function.

    Attributes:
        convention: Whose defaults fill the unset fields.
    """

    convention: Convention | None = None


@dataclass(frozen=True)
class Sigmoid(Activation, field="sigmoid"):
    """The logistic function."""


@dataclass(frozen=True)
class Tanh(Activation, field="tanh"):
    """The hyperbolic tangent."""


@dataclass(frozen=True)
class Relu(Activation, field="relu"):
    """The rectifier.

    Its derivative at 0 is 0.
    """


@dataclass(frozen=True, kw_only=True)
class LeakyRelu(Activation, field="leaky_relu"):
    """The leaky rectifier.

    Its derivative at 0 is negative_slope.

    Attributes:
        negative_slope: Slope left of zero.
    """

    negative_slope: float | None = None


@dataclass(frozen=True, kw_only=True)
class Softmax(Activation, field="softmax"):
    """Softmax.

    Attributes:
        axis: The axis that sums to one; negative counts from the end.
    """

    axis: int | None = None
