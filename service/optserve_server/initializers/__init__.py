"""Initializers: how tensors are filled on the server, one a file."""

from optserve_server.initializers.base import Initializer
from optserve_server.registry import Registry

REGISTRY: Registry[Initializer] = Registry("initializers", __name__)
