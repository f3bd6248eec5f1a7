"""Schedules: learning rates as functions of the step, one a file."""

from optserve_server.registry import Registry
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.constant import Constant
from optserve_server.schedules.cosine import Cosine
from optserve_server.schedules.cosine_restarts import CosineRestarts
from optserve_server.schedules.exponential import Exponential
from optserve_server.schedules.inverse_time import InverseTime
from optserve_server.schedules.join import Join
from optserve_server.schedules.legacy_decay import LegacyDecay
from optserve_server.schedules.multi_step_decay import MultiStepDecay
from optserve_server.schedules.one_cycle import OneCycle
from optserve_server.schedules.piecewise_constant import PiecewiseConstant
from optserve_server.schedules.polynomial import Polynomial
from optserve_server.schedules.rsqrt import Rsqrt
from optserve_server.schedules.step_decay import StepDecay
from optserve_server.schedules.warmup import Warmup
from optserve_server.schedules.warmup_stable_decay import WarmupStableDecay

ALL: list[type[Schedule]] = [
    Exponential,
    PiecewiseConstant,
    InverseTime,
    Constant,
    Polynomial,
    Cosine,
    CosineRestarts,
    OneCycle,
    StepDecay,
    MultiStepDecay,
    Rsqrt,
    WarmupStableDecay,
    Warmup,
    Join,
    LegacyDecay,
]

REGISTRY = Registry("schedules", ALL)
