"""Initializers: how tensors are filled on the server, one a file."""

from optserve_server.initializers.base import Initializer
from optserve_server.initializers.constant import Constant
from optserve_server.initializers.glorot import Glorot
from optserve_server.initializers.he import He
from optserve_server.initializers.identity import Identity
from optserve_server.initializers.lecun import Lecun
from optserve_server.initializers.normal import Normal
from optserve_server.initializers.orthogonal import Orthogonal
from optserve_server.initializers.truncated_normal import TruncatedNormal
from optserve_server.initializers.uniform import Uniform
from optserve_server.initializers.variance_scaling import VarianceScaling
from optserve_server.initializers.zeros import Zeros
from optserve_server.registry import Registry

ALL: list[type[Initializer]] = [
    Zeros,
    Constant,
    Normal,
    TruncatedNormal,
    He,
    Glorot,
    Uniform,
    Lecun,
    VarianceScaling,
    Orthogonal,
    Identity,
]

REGISTRY = Registry("initializers", ALL)
