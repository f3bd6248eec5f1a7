"""Optimizer steps as a service: the server."""

from importlib.metadata import version

__version__ = version("optserve-server")
