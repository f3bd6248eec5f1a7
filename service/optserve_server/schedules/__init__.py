"""Schedules: learning rates as functions of the step, one a file."""

from optserve_server.registry import Registry
from optserve_server.schedules.base import Schedule

REGISTRY: Registry[Schedule] = Registry("schedules", __name__)
