"""Optimizers: one rule a file, written once over `optserve_server.arrays.ops`."""

from optserve_server.optimizers.base import Rule
from optserve_server.registry import Registry

REGISTRY: Registry[Rule] = Registry("optimizers", __name__)
