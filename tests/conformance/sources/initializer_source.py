"""The service's initializers beside Keras'.

Their numbers differ, so there are no vectors: what is compared is how they are distributed,
by moments, ends and the largest distance of the two empirical distribution functions, and
for matrices that they are orthogonal. Seeds are fixed, so the figures repeat.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from optserve_server.initializers import REGISTRY
from optserve_server.initializers.identity import Identity
from optserve_server.initializers.variance_scaling import FanMode, InitializerDistribution

SHAPES = ((300, 200), (3, 3, 80, 90))
"""A dense layer's and a convolution's kernel, of about 60,000 elements each."""

FARTHEST = 0.016
"""Of the distribution functions of two such draws; beyond it once in a million."""

UNIFORM, NORMAL, TRUNCATED = InitializerDistribution

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Line:
    """An initializer of the contract and the same one of Keras."""

    name: str
    fields: dict[str, Any]
    make: Callable[[], Any]
    ends: bool = True
    """Whether there is a smallest and a largest number."""


def table() -> list[Line]:
    k = keras.initializers
    return [
        Line("normal", {}, lambda: k.RandomNormal(seed=1), ends=False),
        Line("normal", {"mean": 1.0, "stddev": 0.5}, lambda: k.RandomNormal(1.0, 0.5, seed=1), ends=False),
        Line("truncated_normal", {}, lambda: k.TruncatedNormal(seed=1)),
        Line("uniform", {}, lambda: k.RandomUniform(seed=1)),
        Line("uniform", {"minimum": 1.0, "maximum": 3.0}, lambda: k.RandomUniform(1.0, 3.0, seed=1)),
        Line("glorot", {}, lambda: k.GlorotUniform(seed=1)),
        Line("glorot", {"distribution": TRUNCATED}, lambda: k.GlorotNormal(seed=1)),
        Line("he", {}, lambda: k.HeNormal(seed=1)),
        Line("he", {"distribution": UNIFORM}, lambda: k.HeUniform(seed=1)),
        Line("lecun", {}, lambda: k.LecunNormal(seed=1)),
        Line("lecun", {"distribution": UNIFORM}, lambda: k.LecunUniform(seed=1)),
        Line("variance_scaling", {}, lambda: k.VarianceScaling(seed=1)),
        Line("variance_scaling", {"scale": 3.0, "mode": FanMode.OUT, "distribution": UNIFORM},
             lambda: k.VarianceScaling(3.0, "fan_out", "uniform", seed=1)),
        Line("variance_scaling", {"mode": FanMode.AVERAGE, "distribution": NORMAL},
             lambda: k.VarianceScaling(1.0, "fan_avg", "untruncated_normal", seed=1), ends=False),
        Line("orthogonal", {"gain": 1.5}, lambda: k.Orthogonal(1.5, seed=1), ends=False),
    ]  # fmt: skip


def problems() -> list[str]:
    """Where the two differ by more than chance explains, as sentences."""
    keras.config.set_floatx("float64")
    found = []
    for line in table():
        for shape in SHAPES:
            ours = draw(line, shape)
            theirs = np.asarray(line.make()(shape, "float64"))
            complaint = difference(ours, theirs, line.ends)
            if line.name == "orthogonal" and not complaint:
                complaint = skewness(ours, theirs, line.fields["gain"])
            if complaint:
                found.append(f"initializers/{line.name} {line.fields} of {shape}: {complaint}")
    if not np.array_equal(identity(), np.asarray(keras.initializers.Identity(2.0)((3, 5), "float64"))):
        found.append("initializers/identity differs from Keras'")
    return found


def draw(line: Line, shape: tuple[int, ...]) -> Floats:
    return REGISTRY[line.name](**line.fields).initialize(
        shape, np.dtype(np.float64), np.random.default_rng(1)
    )


def identity() -> Floats:
    return Identity(gain=2.0).initialize((3, 5), np.dtype(np.float64), np.random.default_rng(1))


def difference(ours: Floats, theirs: Floats, ends: bool) -> str:
    """What tells two samples apart, or nothing."""
    chance = 5 * theirs.std() * math.sqrt(2 / theirs.size)
    if abs(ours.mean() - theirs.mean()) > chance:
        return f"means {ours.mean():.6g} and {theirs.mean():.6g}"
    if abs(ours.std() / theirs.std() - 1) > 0.015:
        return f"deviations {ours.std():.6g} and {theirs.std():.6g}"
    spread = theirs.max() - theirs.min()
    if ends and max(abs(ours.min() - theirs.min()), abs(ours.max() - theirs.max())) > 0.001 * spread:
        return f"ends {ours.min():.6g}, {ours.max():.6g} and {theirs.min():.6g}, {theirs.max():.6g}"
    distance = farthest(ours.ravel(), theirs.ravel())
    return f"distribution functions {distance:.3g} apart" if distance > FARTHEST else ""


def farthest(a: Floats, b: Floats) -> float:
    """The largest distance of two empirical distribution functions (Kolmogorov and Smirnov)."""
    points = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), points, side="right") / x.size for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def skewness(ours: Floats, theirs: Floats, gain: float) -> str:
    """Whether the columns, or the rows, of both are orthogonal and as long as the gain."""
    for matrix in (ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])):
        tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
        worst = float(np.abs(tall.T @ tall - gain**2 * np.eye(tall.shape[1])).max())
        if worst > 1e-13:
            return f"off orthogonal by {worst:.3g}"
    return ""
