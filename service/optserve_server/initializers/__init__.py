"""Initializers: how tensors are filled on the server, one a file."""

from optserve_server.initializers.base import Initializer
from optserve_server.initializers.constant import Constant
from optserve_server.initializers.glorot import Glorot
from optserve_server.initializers.he import He
from optserve_server.initializers.normal import Normal
from optserve_server.initializers.truncated_normal import TruncatedNormal
from optserve_server.initializers.zeros import Zeros
from optserve_server.registry import Registry

ALL: list[type[Initializer]] = [Zeros, Constant, Normal, TruncatedNormal, He, Glorot]

REGISTRY = Registry("initializers", ALL)
