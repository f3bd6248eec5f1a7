"""Sessions whose steps have no gradient for some tensors, or other settings for each tensor and step.

A tensor without a gradient stays as it is in that step. What a rule counts, as for bias corrections,
is either the tensor's own steps or the session's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.conformance.oracle.optimizers import root

Tensors = dict[str, list[float]]
Settings = Mapping[str, Any]
"""Hyperparameters of one tensor in one step: ``lr``, the rule's, and optionally ``l1``, ``l2``, ``decay``."""

State = dict[str, float]
"""What a rule keeps of one element; 0 at first."""

Rule = Callable[[float, State, float, Settings, int], float]
"""From an element, its state (changed in place), its gradient, the settings and the number of the
step as the rule counts it to the element after it."""


@dataclasses.dataclass(frozen=True)
class Step:
    """Gradients of one step, and settings of the tensors that move; the others are frozen."""

    gradients: Tensors
    settings: Mapping[str, Settings]


def sgd(p: float, state: State, g: float, s: Settings, t: int) -> float:
    return float(p - s["lr"] * g)


def heavy_ball(p: float, state: State, g: float, s: Settings, t: int) -> float:
    state["v"] = g if t == 1 else s["mu"] * state.get("v", 0.0) + (1 - s.get("dampening", 0.0)) * g
    return float(p - s["lr"] * state["v"])


def adagrad(p: float, state: State, g: float, s: Settings, t: int) -> float:
    state["a"] = state.get("a", 0.0) + g * g
    return float(
        p - s["lr"] / (1 + (t - 1) * s["rate_decay"]) * g / root(state["a"], s["epsilon"], "OUTSIDE")
    )


def rmsprop(p: float, state: State, g: float, s: Settings, t: int) -> float:
    state["v"] = s["rho"] * state.get("v", 0.0) + (1 - s["rho"]) * g * g
    return float(p - s["lr"] * g / root(state["v"], s["epsilon"], "OUTSIDE"))


def moments(state: State, g: float, s: Settings) -> tuple[float, float]:
    """Both averages of Adam."""
    state["m"] = s["beta1"] * state.get("m", 0.0) + (1 - s["beta1"]) * g
    state["v"] = s["beta2"] * state.get("v", 0.0) + (1 - s["beta2"]) * g * g
    return state["m"], state["v"]


def adam(p: float, state: State, g: float, s: Settings, t: int) -> float:
    m, v = moments(state, g, s)
    first, second = 1 - s["beta1"] ** t, 1 - s["beta2"] ** t
    return float(p - s["lr"] * (m / first) / (math.sqrt(v / second) + s["epsilon"]))


def fold_adam(p: float, state: State, g: float, s: Settings, t: int) -> float:
    m, v = moments(state, g, s)
    rate = s["lr"] * math.sqrt(1 - s["beta2"] ** t) / (1 - s["beta1"] ** t)
    return float(p - rate * m / (math.sqrt(v) + s["epsilon"]))


def amsgrad_corrected(p: float, state: State, g: float, s: Settings, t: int) -> float:
    m, v = moments(state, g, s)
    state["highest"] = max(state.get("highest", 0.0), v / (1 - s["beta2"] ** t))
    return float(p - s["lr"] * m / (1 - s["beta1"] ** t) / (math.sqrt(state["highest"]) + s["epsilon"]))


def schedule_nadam(p: float, state: State, g: float, s: Settings, t: int) -> float:
    """The product of the momenta is that of all steps that are counted, with a gradient or not."""
    m, v = moments(state, g, s)
    momenta = [s["beta1"] * (1 - 0.5 * 0.96 ** (k * s["psi"])) for k in range(1, t + 2)]
    product, ahead = math.prod(momenta[:-1]), math.prod(momenta)
    direction = momenta[-1] * m / (1 - ahead) + (1 - momenta[-2]) * g / (1 - product)
    return float(p - s["lr"] * direction / (math.sqrt(v / (1 - s["beta2"] ** t)) + s["epsilon"]))


def nadam(p: float, state: State, g: float, s: Settings, t: int) -> float:
    """The same where every counted step has a gradient, and momenta may change."""
    m, v = moments(state, g, s)
    mu, ahead = (s["beta1"] * (1 - 0.5 * 0.96 ** (k * s["psi"])) for k in (t, t + 1))
    state["product"] = state.get("product", 1.0) * mu
    direction = ahead * m / (1 - state["product"] * ahead) + (1 - mu) * g / (1 - state["product"])
    return float(p - s["lr"] * direction / (math.sqrt(v / (1 - s["beta2"] ** t)) + s["epsilon"]))


def adamax(p: float, state: State, g: float, s: Settings, t: int) -> float:
    """With epsilon added to the denominator, as in Keras."""
    state["m"] = s["beta1"] * state.get("m", 0.0) + (1 - s["beta1"]) * g
    state["u"] = max(s["beta2"] * state.get("u", 0.0), abs(g))
    return float(p - s["lr"] / (1 - s["beta1"] ** t) * state["m"] / (state["u"] + s["epsilon"]))


def regularize(g: float, p: float, s: Settings) -> float:
    return float(g + s.get("l1", 0.0) * math.copysign(1.0, p) + s.get("l2", 0.0) * p)


def trajectory(
    parameters: Tensors,
    steps: Sequence[Step],
    rule: Rule,
    *,
    by_tensor: bool = False,
    largest: float = math.inf,
    epsilon: float = 0.0,
    average: float | None = None,
) -> list[tuple[Tensors, Tensors]]:
    """Parameters and their average after each step.

    Args:
        parameters: the tensors before the first step.
        steps: the steps.
        rule: moves one element.
        by_tensor: whether the rule counts a tensor's own steps, or all.
        largest: joint norm of the gradients of tensors that move, to which longer ones are cut.
        epsilon: what is added to the norm that is cut.
        average: share of the average that is kept; the first step copies the parameters.
    """
    p = {n: list(values) for n, values in parameters.items()}
    states: dict[str, list[State]] = {n: [{} for _ in values] for n, values in p.items()}
    counts = dict.fromkeys(p, 0)
    averages, path = p, []
    for number, step in enumerate(steps, 1):
        g = {
            n: [regularize(x, y, step.settings[n]) for x, y in zip(values, p[n], strict=True)]
            for n, values in step.gradients.items()
            if n in step.settings
        }
        length = math.sqrt(math.fsum(x * x for values in g.values() for x in values))
        scale = min(1.0, largest / (length + epsilon)) if length else 1.0
        for n, values in g.items():
            s = step.settings[n]
            counts[n] += 1
            t = counts[n] if by_tensor else number
            keep = 1 - s["lr"] * s.get("decay", 0.0)
            p[n] = [
                rule(keep * x, state, scale * y, s, t)
                for x, state, y in zip(p[n], states[n], values, strict=True)
            ]
        share = 1.0 if number == 1 or average is None else 1 - average
        averages = {
            n: [a + share * (x - a) for a, x in zip(averages[n], values, strict=True)]
            for n, values in p.items()
        }
        path.append(({n: list(values) for n, values in p.items()}, averages))
    return path


def own_steps(
    parameters: Tensors,
    calls: Sequence[Tensors],
    rates: Sequence[float],
    scalar: Callable[..., list[float]],
    **knobs: Any,
) -> list[Tensors]:
    """Each tensor after each call, as if there were no calls but those with its gradient.

    Args:
        parameters: the tensors before the first call.
        calls: the gradients of each call.
        rates: the rate of each call.
        scalar: a function of `oracle.optimizers` or one like it.
        knobs: its hyperparameters.
    """
    path = [{n: list(values) for n, values in parameters.items()} for _ in calls]
    for n, values in parameters.items():
        taken = [call for call, gradients in enumerate(calls) if n in gradients]
        for i, p in enumerate(values):
            reached = scalar(p, [(calls[call][n][i], rates[call]) for call in taken], **knobs)
            for call, after in zip(taken, reached, strict=True):
                for later in path[call:]:
                    later[n][i] = after
    return path
