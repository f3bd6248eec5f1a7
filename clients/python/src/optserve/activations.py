"""Activations.

Written by tools/generate_specs.py from optserve/v1/activation_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

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

    An input of infinity takes everything, several share it equally. Where all inputs along the axis are
    -infinity, value and gradient are NaN, as in PyTorch.

    Attributes:
        axis: The axis that sums to one; negative counts from the end.
    """

    axis: int | None = None


@dataclass(frozen=True)
class Prelu(Activation, field="prelu"):
    """The parametric rectifier (He et al., 2015).

    Its slope is the request's field slope. The derivative at 0 is the slope there.
    """


@dataclass(frozen=True, kw_only=True)
class Rrelu(Activation, field="rrelu"):
    """The randomized rectifier.

    Each element has a slope of its own, uniform on [lower, upper], when training, and their mean
    otherwise. The same seed and shape give the same slopes in either direction and on every backend.

    Attributes:
        lower: Smallest slope.
        upper: Largest slope, at least lower.
        training: Draws slopes.
        seed: Seed of the draws, at least 0. Give another one for each step, and the same one for an
            activation and its gradient.
    """

    lower: float | None = None
    upper: float | None = None
    training: bool | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Elu(Activation, field="elu"):
    """The exponential linear unit (Clevert et al., 2015).

    Its derivative at 0 is alpha.

    Attributes:
        alpha: Minus the value at -infinity.
    """

    alpha: float | None = None


@dataclass(frozen=True)
class Selu(Activation, field="selu"):
    """The scaled exponential linear unit (Klambauer et al., 2017)."""


@dataclass(frozen=True, kw_only=True)
class Celu(Activation, field="celu"):
    """The continuously differentiable exponential linear unit (Barron, 2017).

    Attributes:
        alpha: Minus the value at -infinity.
    """

    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class Gelu(Activation, field="gelu"):
    """The Gaussian error linear unit (Hendrycks and Gimpel, 2016).

    Attributes:
        approximate: Takes x/2*(1 + tanh(sqrt(2/pi)*(x + 0.044715*x^3))) instead.
    """

    approximate: bool | None = None


@dataclass(frozen=True)
class Silu(Activation, field="silu"):
    """The sigmoid linear unit, also called swish."""


@dataclass(frozen=True)
class Mish(Activation, field="mish"):
    """Mish (Misra, 2019)."""


@dataclass(frozen=True, kw_only=True)
class Softplus(Activation, field="softplus"):
    """A smooth rectifier.

    Attributes:
        beta: How sharply it bends.
    """

    beta: float | None = None


@dataclass(frozen=True)
class Softsign(Activation, field="softsign"):
    """A rational sigmoid between -1 and 1."""


@dataclass(frozen=True)
class HardSigmoid(Activation, field="hard_sigmoid"):
    """A sigmoid of three straight pieces.

    Its derivative is 0 at -3 and 3.
    """


@dataclass(frozen=True)
class HardSwish(Activation, field="hard_swish"):
    """Swish with the hard sigmoid, also called hard SiLU.

    Its derivative is 0 at -3 and 1 at 3.
    """


@dataclass(frozen=True, kw_only=True)
class LogSoftmax(Activation, field="log_softmax"):
    """The logarithm of softmax, infinities included.

    Attributes:
        axis: The axis whose exponentials sum to one; negative counts from the end.
    """

    axis: int | None = None


@dataclass(frozen=True)
class Maxout(Activation, field="maxout"):
    """Maxout (Goodfellow et al., 2013).

    Element j along the axis of the output is the greatest of the elements j*group_size to (j +
    1)*group_size - 1 of the input, and hands its gradient to the first of those that are.

    Attributes:
        group_size: Elements of a group, at least 1; divides the axis' extent. Required.
        axis: The axis that is grouped; negative counts from the end.
    """

    group_size: int
    _: KW_ONLY
    axis: int | None = None
