"""Learning-rate schedules.

Written by tools/generate_specs.py: the names of `optserve.specs.schedules`.
"""

from optserve.specs.schedules import (
    ConstantSchedule,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    ExpressionSchedule,
    InverseTime,
    Join,
    LegacyDecay,
    MultiStepDecay,
    OneCycle,
    PiecewiseConstant,
    PiecewiseInterpolation,
    Polynomial,
    Product,
    Rsqrt,
    Schedule,
    StepDecay,
    Warmup,
    WarmupStableDecay,
)

__all__ = [
    "ConstantSchedule",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "ExpressionSchedule",
    "InverseTime",
    "Join",
    "LegacyDecay",
    "MultiStepDecay",
    "OneCycle",
    "PiecewiseConstant",
    "PiecewiseInterpolation",
    "Polynomial",
    "Product",
    "Rsqrt",
    "Schedule",
    "StepDecay",
    "Warmup",
    "WarmupStableDecay",
]
