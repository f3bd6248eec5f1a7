"""Losses and their gradients, one a file."""

from optserve_server.losses.base import Loss
from optserve_server.registry import Registry

REGISTRY: Registry[Loss] = Registry("losses", __name__)
