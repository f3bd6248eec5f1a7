"""Initializers.

Written by tools/generate_specs.py from optserve/v1/initializer_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.specs.base import Choice
from optserve.specs.enums import FanMode, InitializerDistribution
from optserve.v1 import initializer_spec_pb2


@dataclass(frozen=True)
class Initializer(Choice, message=initializer_spec_pb2.InitializerSpec, oneof="initializer"):
    """How a server computes a tensor's initial value.

    Random values depend only on the session's seed and the tensor's name, so they are the same on every
    backend.
    """


@dataclass(frozen=True)
class Zeros(Initializer, field="zeros"):
    """All zeros.

    0 everywhere.
    """


@dataclass(frozen=True)
class Constant(Initializer, field="constant"):
    """All one value.

    The value everywhere.

    Attributes:
        value: The value. Required.
    """

    value: float


@dataclass(frozen=True, kw_only=True)
class Normal(Initializer, field="normal"):
    """A normal distribution.

    mean + stddev*z with z normal.

    Attributes:
        mean: Its mean. Default: 0.0.
        stddev: Its standard deviation. At least 0. Default: 0.05.
    """

    mean: float = 0.0
    stddev: float = 0.05


@dataclass(frozen=True, kw_only=True)
class TruncatedNormal(Initializer, field="truncated_normal"):
    """A normal distribution redrawn outside two standard deviations.

    mean + stddev*z with z normal and redrawn where |z| > 2.

    ``stddev`` is that before truncation; what is drawn has 0.88 of it (Keras).

    Attributes:
        mean: Mean of the distribution before truncation. Default: 0.0.
        stddev: Standard deviation of the distribution before truncation. At least 0. Default: 0.05.
    """

    mean: float = 0.0
    stddev: float = 0.05


@dataclass(frozen=True, kw_only=True)
class He(Initializer, field="he"):
    """He initialization (He et al., 2015, arXiv:1502.01852).

    Variance 2/fan_in, which keeps a rectifier network's activations at their size.

    NORMAL is the lecture's N(0, sqrt(2/n_in)).

    Attributes:
        distribution: Shape of the distribution; truncated normal when unset.
    """

    distribution: InitializerDistribution = InitializerDistribution.TRUNCATED_NORMAL


@dataclass(frozen=True, kw_only=True)
class Glorot(Initializer, field="glorot"):
    """Glorot initialization (Glorot and Bengio, 2010).

    Variance 2/(fan_in + fan_out), between what activations and gradients ask for.

    Attributes:
        distribution: Shape of the distribution; uniform when unset.
    """

    distribution: InitializerDistribution = InitializerDistribution.UNIFORM


@dataclass(frozen=True, kw_only=True)
class Uniform(Initializer, field="uniform"):
    """A uniform distribution.

    minimum + (maximum - minimum)*u with u uniform on [0, 1).

    Attributes:
        minimum: Its lower end. Default: -0.05.
        maximum: Its upper end, at least minimum. Default: 0.05.
    """

    minimum: float = -0.05
    maximum: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Lecun(Initializer, field="lecun"):
    """LeCun initialization (LeCun, Bottou, Orr and Müller, 1998).

    Variance 1/fan_in, which keeps a linear layer's outputs at the size of its inputs.

    Attributes:
        distribution: Shape of the distribution; truncated normal when unset.
    """

    distribution: InitializerDistribution = InitializerDistribution.TRUNCATED_NORMAL


@dataclass(frozen=True, kw_only=True)
class VarianceScaling(Initializer, field="variance_scaling"):
    """Initializers whose variance follows from how many units a tensor connects.

    Variance scale/fan, as Keras' initializer of that name.

    Attributes:
        scale: The variance times the fan. Greater than 0. Default: 1.0.
        mode: Which fan; FanMode.IN when unset.
        distribution: Shape of the distribution; truncated normal when unset.
    """

    scale: float = 1.0
    mode: FanMode = FanMode.IN
    distribution: InitializerDistribution = InitializerDistribution.TRUNCATED_NORMAL


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Initializer, field="orthogonal"):
    """Orthogonal matrices (Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120).

    gain*Q, where Q has orthonormal columns, or rows if it has fewer of these (Keras).

    All dimensions but the last are rows. Q is that of a normal matrix' QR decomposition with
    R's diagonal made positive, which distributes it evenly over all such matrices.

    All dimensions except the last count as rows; there must be at least two dimensions.

    Attributes:
        gain: Factor of the matrix. Default: 1.0.
    """

    gain: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Identity(Initializer, field="identity"):
    """The identity matrix.

    gain on the diagonal and 0 elsewhere.

    The tensor must have two dimensions.

    Attributes:
        gain: Factor of the matrix. Default: 1.0.
    """

    gain: float = 1.0
