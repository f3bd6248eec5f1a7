"""Complexity of described networks: one file for each kind of layer, and their sum in `network`."""

from optserve_server.complexity.base import Layer
from optserve_server.registry import Registry

REGISTRY: Registry[Layer] = Registry("layers", __name__)
