"""Initializers.

Written by tools/generate_specs.py from optserve/v1/initializer_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.enums import FanMode, InitializerDistribution
from optserve.spec import Choice
from optserve.v1 import initializer_spec_pb2


@dataclass(frozen=True)
class Initializer(Choice, message=initializer_spec_pb2.InitializerSpec, oneof="initializer"):
    """How a server fills a tensor.

    Draws depend on the session's seed, the tensor's name and nothing else, so they are the same on every
    backend.
    """


@dataclass(frozen=True)
class Zeros(Initializer, field="zeros"):
    """All zeros."""


@dataclass(frozen=True)
class Constant(Initializer, field="constant"):
    """All one value.

    Attributes:
        value: The value. Required.
    """

    value: float


@dataclass(frozen=True, kw_only=True)
class Normal(Initializer, field="normal"):
    """A normal distribution.

    Attributes:
        mean: Its mean.
        stddev: Its standard deviation.
    """

    mean: float | None = None
    stddev: float | None = None


@dataclass(frozen=True, kw_only=True)
class TruncatedNormal(Initializer, field="truncated_normal"):
    """A normal distribution redrawn outside two standard deviations of its mean.

    Attributes:
        mean: Mean of the distribution before truncation.
        stddev: Standard deviation of the distribution before truncation.
    """

    mean: float | None = None
    stddev: float | None = None


@dataclass(frozen=True, kw_only=True)
class He(Initializer, field="he"):
    """He initialization.

    Attributes:
        distribution: Shape of the distribution; truncated normal when unset.
    """

    distribution: InitializerDistribution | None = None


@dataclass(frozen=True, kw_only=True)
class Glorot(Initializer, field="glorot"):
    """Glorot initialization.

    Attributes:
        distribution: Shape of the distribution; uniform when unset.
    """

    distribution: InitializerDistribution | None = None


@dataclass(frozen=True, kw_only=True)
class Uniform(Initializer, field="uniform"):
    """A uniform distribution.

    Attributes:
        minimum: Its lower end.
        maximum: Its upper end, at least minimum.
    """

    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lecun(Initializer, field="lecun"):
    """LeCun initialization.

    Attributes:
        distribution: Shape of the distribution; truncated normal when unset.
    """

    distribution: InitializerDistribution | None = None


@dataclass(frozen=True, kw_only=True)
class VarianceScaling(Initializer, field="variance_scaling"):
    """Mean 0 and variance scale/fan, as Keras' VarianceScaling.

    Attributes:
        scale: The variance times the fan.
        mode: Which fan; FAN_MODE_IN when unset.
        distribution: Shape of the distribution; truncated normal when unset.
    """

    scale: float | None = None
    mode: FanMode | None = None
    distribution: InitializerDistribution | None = None


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Initializer, field="orthogonal"):
    """A random matrix with orthonormal columns, or rows where it has fewer of these (Saxe et al., 2013).

    All dimensions but the last count as rows; there must be two.

    Attributes:
        gain: Factor of the matrix.
    """

    gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class Identity(Initializer, field="identity"):
    """The identity matrix; of a matrix that is not square, its leading part.

    The tensor must have two dimensions.

    Attributes:
        gain: Factor of the matrix.
    """

    gain: float | None = None
