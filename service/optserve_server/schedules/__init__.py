"""Schedules: learning rates as functions of the step, one a file."""

from optserve_server.registry import Registry
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.exponential import Exponential
from optserve_server.schedules.inverse_time import InverseTime
from optserve_server.schedules.piecewise_constant import PiecewiseConstant

ALL: list[type[Schedule]] = [Exponential, PiecewiseConstant, InverseTime]

REGISTRY = Registry("schedules", ALL)
