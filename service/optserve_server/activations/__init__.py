"""Activations and their derivatives, one a file."""

from optserve_server.activations.base import Activation
from optserve_server.registry import Registry

REGISTRY: Registry[Activation] = Registry("activations", __name__)
