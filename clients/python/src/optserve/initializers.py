"""Initializers.

Written by tools/generate_specs.py: the names of `optserve.specs.initializers`.
"""

from optserve.specs.initializers import (
    Constant,
    Glorot,
    He,
    Identity,
    Initializer,
    Lecun,
    Normal,
    Orthogonal,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
)

__all__ = [
    "Constant",
    "Glorot",
    "He",
    "Identity",
    "Initializer",
    "Lecun",
    "Normal",
    "Orthogonal",
    "TruncatedNormal",
    "Uniform",
    "VarianceScaling",
    "Zeros",
]
