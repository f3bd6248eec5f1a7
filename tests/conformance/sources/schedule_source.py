"""Schedules from Keras, PyTorch and optax, and those that only papers have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import keras
import optax
import torch
from torch.optim import lr_scheduler

from tests.conformance.corpus import EXACT, FRAMEWORK_FLOAT32
from tests.conformance.oracle import schedules as oracle
from tests.conformance.sources import functions
from tests.conformance.sources.row import Row

KERAS_COSINE: dict[str, Any] = {
    "tolerance": FRAMEWORK_FLOAT32,
    "note": "Keras on JAX takes the cosine in float32",
}
SCHEDULES = keras.optimizers.schedules
Rate = Callable[[int], float]


def row(
    file: str, case: str, fields: Mapping[str, Any], framework: Rate | None, scalar: Rate,
    note: str = "", last: int = 1000, tolerance: Mapping[str, float] = EXACT,
    steps: Sequence[int] = functions.STEPS,
) -> Row:  # fmt: skip
    """A case named for its source; ``last`` is the last step at which the source can be asked."""
    source = case.partition("_")[0]
    steps = [step for step in steps if step <= last]
    convention = "KERAS" if source == "paper" else source.upper()
    return Row(
        "schedules", file, case, source, {"convention": f"CONVENTION_{convention}", file: fields},
        {"steps": steps}, lambda: {"values": [scalar(step) for step in steps]},
        (lambda: {"values": [framework(step) for step in steps]}) if framework else None,
        tolerance, note,
    )  # fmt: skip


def call(schedule: Any) -> Rate:
    """A schedule of Keras or optax."""
    return lambda step: float(schedule(jnp.asarray(step, "int64")))


def walk(make: Callable[..., Any], rate: float, last: int = 1000, **options: Any) -> Rate:
    """A scheduler of PyTorch, walked up to ``last``."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(optimizer, **options)
    rates = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(last):
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates.__getitem__


FAR = [10**9 + 64 * i for i in range(9)]
"""Steps at which a quotient by the length of a decay has few digits behind its point."""


def torch_restarts(optimizer: Any) -> Any:
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=7, eta_min=0.0125)


def place(make: Callable[[Any], Any], steps: Sequence[int]) -> Rate:
    """A scheduler of PyTorch that gets its step as an argument."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    rates = {}
    for step in steps:
        optimizer.step()
        scheduler.step(step)
        rates[step] = float(optimizer.param_groups[0]["lr"])
    return rates.__getitem__


def of(scalar: Callable[..., float], **knobs: Any) -> Rate:
    """The oracle with its knobs."""
    return lambda step: scalar(step, **knobs)


def spec(name: str, **fields: Any) -> dict[str, Any]:
    """A schedule within another, which hands its convention down."""
    return {name: fields}


def constants_and_stairs() -> list[Row]:
    stairs = {"initial_learning_rate": 0.1, "step_size": 7}
    milestones = {"initial_learning_rate": 0.1, "milestones": [5, 12]}
    return [
        row("constant", "optax", {"value": 0.03}, call(optax.constant_schedule(0.03)),
            of(oracle.constant, value=0.03)),
        row("step_decay", "torch", stairs | {"gamma": 0.5},
            walk(lr_scheduler.StepLR, 0.1, step_size=7, gamma=0.5),
            of(oracle.step_decay, initial=0.1, size=7, gamma=0.5)),
        row("step_decay", "torch_defaults", stairs, walk(lr_scheduler.StepLR, 0.1, step_size=7, last=100),
            of(oracle.step_decay, initial=0.1, size=7, gamma=0.1), last=100),
        row("multi_step_decay", "torch", milestones | {"gamma": 0.25},
            walk(lr_scheduler.MultiStepLR, 0.1, milestones=[5, 12], gamma=0.25),
            of(oracle.multi_step_decay, initial=0.1, milestones=[5, 12], gamma=0.25)),
        row("multi_step_decay", "torch_defaults", milestones,
            walk(lr_scheduler.MultiStepLR, 0.1, milestones=[5, 12]),
            of(oracle.multi_step_decay, initial=0.1, milestones=[5, 12], gamma=0.1)),
    ]  # fmt: skip


def polynomials() -> list[Row]:
    fields = {"initial_learning_rate": 0.1, "decay_steps": 13.0}
    torch_line = {"initial_learning_rate": 0.1, "decay_steps": 1001.0}

    def knobs(end: float, power: float, cycle: bool = False, steps: float = 13.0) -> dict[str, Any]:
        return {"initial": 0.1, "decay_steps": steps, "end": end, "power": power, "cycle": cycle}

    def keras_case(name: str, **options: Any) -> Row:
        known = {"end_learning_rate": 1e-4, "power": 1.0, "cycle": False} | options
        schedule = SCHEDULES.PolynomialDecay(0.1, 13.0, **options)
        scalar = of(oracle.polynomial, **knobs(known["end_learning_rate"], known["power"], known["cycle"]))
        return row("polynomial", name, fields | options, call(schedule), scalar)

    return [
        keras_case("keras_defaults"),
        keras_case("keras", end_learning_rate=0.01, power=0.5),
        keras_case("keras_cycle", end_learning_rate=0.01, power=2.0, cycle=True),
        row("polynomial", "torch", torch_line | {"power": 2.0},
            walk(lr_scheduler.PolynomialLR, 0.1, total_iters=1001, power=2.0),
            of(oracle.polynomial, **knobs(0.0, 2.0, steps=1001.0))),
        row("polynomial", "torch_defaults", torch_line,
            walk(lr_scheduler.PolynomialLR, 0.1, total_iters=1001),
            of(oracle.polynomial, **knobs(0.0, 1.0, steps=1001.0))),
        row("polynomial", "optax", fields | {"end_learning_rate": 0.01, "power": 1.5},
            call(optax.polynomial_schedule(0.1, 0.01, 1.5, 13)), of(oracle.polynomial, **knobs(0.01, 1.5))),
    ]  # fmt: skip


def cosines() -> list[Row]:
    fields = {"initial_learning_rate": 0.1, "decay_steps": 13.0}
    knobs = {"initial": 0.1, "decay_steps": 13.0}
    warm = {"warmup_steps": 5.0, "warmup_target": 0.25}
    return [
        row("cosine", "keras", fields | {"alpha": 0.75}, call(SCHEDULES.CosineDecay(0.1, 13.0, alpha=0.75)),
            of(oracle.cosine, alpha=0.75, **knobs), **KERAS_COSINE),
        row("cosine", "keras_warmup", fields | {"alpha": 0.75} | warm,
            call(SCHEDULES.CosineDecay(0.1, 13.0, alpha=0.75, **warm)),
            of(oracle.cosine, alpha=0.75, warmup=5.0, target=0.25, **knobs), **KERAS_COSINE),
        row("cosine", "optax", fields | {"alpha": 0.125}, call(optax.cosine_decay_schedule(0.1, 13, 0.125)),
            of(oracle.cosine, alpha=0.125, **knobs)),
        # The recursion loses digits with every period.
        row("cosine", "torch", fields | {"alpha": 0.125},
            walk(lr_scheduler.CosineAnnealingLR, 0.1, T_max=13, eta_min=0.0125),
            of(oracle.cosine, alpha=0.125, periodic=True, **knobs), last=100),
        row("cosine", "torch_once", fields | {"alpha": 0.125, "periodic": False},
            walk(lr_scheduler.CosineAnnealingLR, 0.1, T_max=13, eta_min=0.0125),
            of(oracle.cosine, alpha=0.125, **knobs), last=13),
        row("cosine", "keras_warmup_periodic", fields | {"alpha": 0.75, "periodic": True} | warm,
            periodic_keras, of(oracle.cosine, alpha=0.75, warmup=5.0, target=0.25, periodic=True, **knobs),
            **(KERAS_COSINE | {"note": "Keras' schedule, mirrored at the end of each half period"})),
    ]  # fmt: skip


def periodic_keras(step: int) -> float:
    schedule = SCHEDULES.CosineDecay(0.1, 13.0, alpha=0.75, warmup_steps=5.0, warmup_target=0.25)
    within = max(step - 5, 0) % 26
    return call(schedule)(step if step < 5 else 5 + min(within, 26 - within))


def restarts() -> list[Row]:
    fields = {"initial_learning_rate": 0.1, "first_decay_steps": 7.0, "alpha": 0.125}

    def case(name: str, framework: Rate, options: dict[str, float], t_mul: float, m_mul: float) -> Row:
        knobs = {"initial": 0.1, "first": 7.0, "t_mul": t_mul, "m_mul": m_mul, "alpha": 0.125}
        return row("cosine_restarts", name, fields | options, framework, of(oracle.cosine_restarts, **knobs),
                   **(KERAS_COSINE if name.startswith("keras") else {}))  # fmt: skip

    def keras_one(**options: float) -> Rate:
        return call(SCHEDULES.CosineDecayRestarts(0.1, 7.0, alpha=0.125, **options))

    def torch_one(**options: int) -> Rate:
        return walk(lr_scheduler.CosineAnnealingWarmRestarts, 0.1, T_0=7, eta_min=0.0125, **options)

    return [
        case("keras", keras_one(t_mul=1.5, m_mul=0.75), {"t_mul": 1.5, "m_mul": 0.75}, 1.5, 0.75),
        case("keras_even", keras_one(t_mul=1.0, m_mul=0.875), {"t_mul": 1.0, "m_mul": 0.875}, 1.0, 0.875),
        case("keras_defaults", keras_one(), {}, 2.0, 1.0),
        case("torch", torch_one(T_mult=3), {"t_mul": 3.0}, 3.0, 1.0),
        case("torch_defaults", torch_one(), {}, 1.0, 1.0),
        row("cosine_restarts", "torch_far", fields, place(torch_restarts, FAR),
            of(oracle.cosine_restarts, initial=0.1, first=7.0, t_mul=1.0, m_mul=1.0, alpha=0.125),
            last=FAR[-1], steps=FAR),
    ]  # fmt: skip


def cycles() -> list[Row]:
    fields = {"max_learning_rate": 0.1, "total_steps": 21}

    def case(name: str, options: dict[str, Any], form: str = "COSINE", **own: Any) -> Row:
        known = {
            "pct_start": 0.3,
            "div_factor": 25.0,
            "final_div_factor": 1e4,
            "three_phase": False,
        } | options
        scheduler = walk(lr_scheduler.OneCycleLR, 0.1, 20, max_lr=0.1, total_steps=21,
                           cycle_momentum=False, **options, **own)  # fmt: skip
        stated = fields | options | ({"annealing": f"ANNEALING_{form}"} if own else {})
        knobs = {"pct_start": "pct_start", "div": "div_factor", "final_div": "final_div_factor",
                 "three": "three_phase"}  # fmt: skip
        scalar = of(oracle.one_cycle, top=0.1, total=21, form=form, **{k: known[v] for k, v in knobs.items()})
        return row("one_cycle", name, stated, scheduler, scalar, last=20)

    return [
        case("torch_defaults", {}),
        case("torch", {"pct_start": 0.25, "div_factor": 8.0, "final_div_factor": 16.0}),
        case("torch_linear", {"div_factor": 8.0}, "LINEAR", anneal_strategy="linear"),
        case("torch_three_phase", {"three_phase": True, "div_factor": 8.0, "final_div_factor": 16.0}),
        *optax_cycles(),
    ]


def optax_cycles() -> list[Row]:
    """optax' two: along a cosine in two phases, and along lines in three."""
    fields = {"max_learning_rate": 0.1, "total_steps": 21}
    parts = {"pct_start": 0.25, "div_factor": 8.0, "final_div_factor": 16.0}
    linear = {"annealing": "ANNEALING_LINEAR", "three_phase": True}

    def case(name: str, make: Callable[..., Any], stated: dict[str, Any], **options: float) -> Row:
        known = {"pct_start": 0.3, "pct_final": 0.85, "div_factor": 25.0, "final_div_factor": 1e4} | options
        scalar = of(oracle.count_cycle, top=0.1, total=21, linear="annealing" in stated, **known)
        return row("one_cycle", name, fields | stated | options, call(make(21, 0.1, **options)), scalar)

    return [
        case("optax_defaults", optax.cosine_onecycle_schedule, {}),
        case("optax", optax.cosine_onecycle_schedule, {}, **parts),
        case("optax_linear_defaults", optax.linear_onecycle_schedule, linear),
        case("optax_linear", optax.linear_onecycle_schedule, linear, pct_final=0.6, **parts),
    ]


def papers() -> list[Row]:
    peak = 0.5 * (64 * 12) ** -0.5
    stages = {"peak_learning_rate": 0.1, "warmup_steps": 4, "stable_steps": 8, "decay_steps": 9,
              "initial_learning_rate": 0.01, "end_learning_rate": 0.002}  # fmt: skip
    knobs = {"initial": 0.01, "peak": 0.1, "end": 0.002, "warmup": 4, "stable": 8, "decay": 9}
    up, level = optax.linear_schedule(0.01, 0.1, 4), optax.constant_schedule(0.1)

    def stable(name: str, form: str, down: Any, stated: bool = True) -> Row:
        schedule = down and call(optax.join_schedules([up, level, down], [4, 12]))
        fields = stages | ({"annealing": f"ANNEALING_{form}"} if stated else {})
        return row("warmup_stable_decay", name, fields, schedule,
                   of(oracle.warmup_stable_decay, form=form, **knobs))  # fmt: skip

    return [
        row("rsqrt", "paper", {"peak_learning_rate": peak, "warmup_steps": 12.0}, None,
            of(oracle.noam, factor=0.5, width=64.0, warmup=12.0),
            "Noam's schedule with factor 0.5, width 64 and 12 steps of warm-up"),
        stable("optax", "LINEAR", optax.linear_schedule(0.1, 0.002, 9), stated=False),
        stable("optax_cosine", "COSINE", optax.cosine_decay_schedule(0.1, 9, 0.02)),
        stable("paper", "SQUARE_ROOT", None),
    ]  # fmt: skip


def combine() -> list[Row]:
    decay = of(oracle.exponential, initial=0.1, decay_steps=7.0, decay_rate=0.5, staircase=False)
    exponential = spec("exponential", initial_learning_rate=0.1, decay_steps=7.0, decay_rate=0.5)
    line = of(oracle.polynomial, initial=0.05, decay_steps=6.0, end=0.02, power=1.0, cycle=False)
    polynomial = spec("polynomial", initial_learning_rate=0.05, decay_steps=6.0, end_learning_rate=0.02)
    optax_decay, optax_line = (
        optax.exponential_decay(0.1, 7, 0.5),
        optax.polynomial_schedule(0.05, 0.02, 1.0, 6),
    )
    switch = spec("piecewise_constant", boundaries=[3], values=[0.1, 0.05])
    parts = [optax.constant_schedule(0.03), optax_line, optax_decay]
    return [
        row("warmup", "optax", {"schedule": exponential, "warmup_steps": 5, "initial_learning_rate": 0.01},
            call(optax.warmup_exponential_decay_schedule(0.01, 0.1, 5, 7, 0.5)),
            of(oracle.warm_up, initial=0.01, warmup=5, then=decay)),
        row("warmup", "optax_convention", {"schedule": switch, "warmup_steps": 4},
            call(optax.join_schedules([optax.linear_schedule(0.0, 0.1, 4),
                                         optax.piecewise_constant_schedule(0.1, {3: 0.5})], [4])),
            of(oracle.warm_up, initial=0.0, warmup=4,
               then=of(oracle.piecewise_constant, boundaries=[3], values=[0.1, 0.05], side="AFTER")),
            "the schedule within follows the convention around it"),
        row("join", "optax", {"schedules": [spec("constant", value=0.03), polynomial, exponential],
                              "boundaries": [4, 12]},
            call(optax.join_schedules(parts, [4, 12])),
            of(oracle.join, boundaries=[4, 12], parts=[of(oracle.constant, value=0.03), line, decay])),
        row("legacy_decay", "keras", {"schedule": spec("constant", value=0.01), "decay": 0.25},
            call(SCHEDULES.InverseTimeDecay(0.01, 1, 0.25)),
            of(oracle.legacy_decay, inner=of(oracle.constant, value=0.01), decay=0.25),
            "Keras 3 has it as InverseTimeDecay by single steps"),
        row("legacy_decay", "keras_on_top", {"schedule": exponential, "decay": 0.125},
            product(SCHEDULES.ExponentialDecay(0.1, 7.0, 0.5), SCHEDULES.InverseTimeDecay(1.0, 1, 0.125)),
            of(oracle.legacy_decay, inner=decay, decay=0.125), "the product of two schedules of Keras 3"),
    ]  # fmt: skip


def triangles() -> list[Row]:
    fields = {"base_learning_rate": 0.02, "max_learning_rate": 0.1}
    plain = {"base": 0.02, "top": 0.1}

    def case(name: str, form: str, mode: str, up: int, down: int | None, **own: float) -> Row:
        stated = {"step_size_up": float(up), **own} | ({"step_size_down": float(down)} if down else {})
        scheduler = walk(lr_scheduler.CyclicLR, 0.1, base_lr=0.02, max_lr=0.1, step_size_up=up,
                         step_size_down=down, mode=mode, cycle_momentum=False, **own)  # fmt: skip
        return row("cyclic", name, fields | stated | {"form": f"CYCLIC_FORM_{form}"}, scheduler,
                   of(oracle.cyclic, up=up, down=down or up, form=form, **plain, **own))  # fmt: skip

    return [
        row("cyclic", "torch_defaults", fields,
            walk(lr_scheduler.CyclicLR, 0.1, base_lr=0.02, max_lr=0.1, cycle_momentum=False),
            of(oracle.cyclic, up=2000, down=2000, form="TRIANGULAR", **plain)),
        case("torch", "TRIANGULAR", "triangular", 5, 8),
        case("torch_halved", "TRIANGULAR2", "triangular2", 7, None),
        case("torch_exponential", "EXP_RANGE", "exp_range", 4, 12, gamma=0.99),
    ]  # fmt: skip


def list_end_rates() -> list[Row]:
    """What optax has beside the others: an end of an exponential, and a power of a cosine."""
    fields = {"initial_learning_rate": 0.1, "decay_steps": 7.0}
    knobs = {"initial": 0.1, "decay_steps": 7.0}

    def exponential(name: str, rate: float, end: float, stairs: bool) -> Row:
        stated = fields | {"decay_rate": rate, "end_learning_rate": end, "staircase": stairs}
        schedule = optax.exponential_decay(0.1, 7, rate, staircase=stairs, end_value=end)
        return row("exponential", name, stated, call(schedule),
                   of(oracle.exponential, decay_rate=rate, staircase=stairs, end=end, **knobs))  # fmt: skip

    return [
        exponential("optax_end", 0.5, 0.02, False),
        exponential("optax_stairs_up", 1.5, 0.4, True),
        row("cosine", "optax_exponent", fields | {"alpha": 0.125, "exponent": 1.5},
            call(optax.cosine_decay_schedule(0.1, 7, 0.125, exponent=1.5)),
            of(oracle.cosine, alpha=0.125, exponent=1.5, **knobs)),
    ]  # fmt: skip


def formulas() -> list[Row]:
    def case(name: str, text: str, factor: Rate, **constants: float) -> Row:
        fields = {"expression": text} | ({"constants": constants} if constants else {})
        return row("expression", name, fields, walk(lr_scheduler.LambdaLR, 0.5, lr_lambda=factor),
                   lambda step: 0.5 * factor(step))  # fmt: skip

    return [
        case("torch", "0.5*0.95**floor(step/30)", lambda s: math.pow(0.95, s // 30)),
        case("torch_branches", "RATE*where(step < 4, (step + 1)/4, power(step/4 + 0.25, -0.5))",
             lambda s: (s + 1) / 4 if s < 4 else math.pow(s / 4 + 0.25, -0.5), RATE=0.5),
        case("torch_waves", "0.25*(1 + cos(PI*mod(step, 20)/20))",
             lambda s: 0.5 * (1 + math.cos(math.pi * (s % 20) / 20)), PI=math.pi),
    ]  # fmt: skip


def products() -> list[Row]:
    stairs = spec("step_decay", initial_learning_rate=0.1, step_size=7, gamma=0.5)
    late = spec("piecewise_constant", boundaries=[5], values=[0.25, 1.0])
    decay = spec("exponential", initial_learning_rate=1.0, decay_steps=1.0, decay_rate=0.99)

    def chain(optimizer: Any) -> Any:
        return lr_scheduler.ChainedScheduler([
            lr_scheduler.StepLR(optimizer, 7, 0.5),
            lr_scheduler.ConstantLR(optimizer, 0.25, 5),
            lr_scheduler.ExponentialLR(optimizer, 0.99),
        ])  # fmt: skip

    return [
        row("product", "torch", {"schedules": [stairs, late, decay]}, walk(chain, 0.1),
            of(oracle.multiply, parts=[
                of(oracle.step_decay, initial=0.1, size=7, gamma=0.5),
                of(oracle.piecewise_constant, boundaries=[5], values=[0.25, 1.0], side="AFTER"),
                of(oracle.exponential, initial=1.0, decay_steps=1.0, decay_rate=0.99, staircase=False),
            ])),
    ]  # fmt: skip


def interpolations() -> list[Row]:
    values = [0.1, 0.05, 0.2, 0.02]
    knobs = {"boundaries": [4, 9, 21], "values": values}

    def case(name: str, kind: str, **stated: str) -> Row:
        schedule = optax.piecewise_interpolate_schedule(kind, 0.1, {4: 0.5, 9: 4.0, 21: 0.1})
        return row("piecewise_interpolation", name, knobs | stated,
                   call(schedule), of(oracle.interpolate, form=kind.upper(), **knobs))  # fmt: skip

    return [case("optax", "linear"), case("optax_cosine", "cosine", annealing="ANNEALING_COSINE")]


def product(*factors: Any) -> Rate:
    """Schedules multiplied."""

    def rate(step: int) -> float:
        value = 1.0
        for factor in factors:
            value *= call(factor)(step)
        return value

    return rate


def rows() -> list[Row]:
    """Every case."""
    parts: Sequence[Callable[[], list[Row]]] = (
        constants_and_stairs, polynomials, cosines, restarts, cycles, papers, combine, triangles,
        list_end_rates, formulas, products, interpolations,
    )  # fmt: skip
    return [row for part in parts for row in part()]
