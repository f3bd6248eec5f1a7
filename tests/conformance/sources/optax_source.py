"""optax, and JAX for what optax does not define, in float64.

optax evaluates a schedule that is given to an optimizer in float32. The learning rate is
therefore changed by making a new optimizer for every step and passing on its state, which
keeps everything in float64.

Left out: optax.rprop, which applies the update of the step before (it returns its state's
``prev_updates``), so that its first step moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.conformance import inputs
from tests.conformance.inputs import EPSILON
from tests.conformance.oracle import activations, gradient, schedules, tensors
from tests.conformance.oracle.losses import class_losses as losses
from tests.conformance.oracle.losses.evaluation import Line
from tests.conformance.sources import functions, guards
from tests.conformance.sources.row import Path, Row, Runner, optimizer_spec, oracle, trajectory

ADAM = {"beta1": 0.9, "beta2": 0.999, "placement": "OUTSIDE", "correction": "HATTED"}
KNOBS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON}
OPTAX_KNOBS = {"b1": 0.8, "b2": 0.95, "eps": EPSILON}
INSIDE = {"epsilon_placement": "EPSILON_PLACEMENT_INSIDE"}
OUTSIDE = {"epsilon_placement": "EPSILON_PLACEMENT_OUTSIDE"}
ROOTS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON, "epsilon_root": 0.02}
OPTAX_ROOTS = {"b1": 0.8, "b2": 0.95, "eps": EPSILON, "eps_root": 0.02}
RATE = 0.015
"""Stated where everything else is a default: optax has no default rate."""


def run(make: Callable[[float], Any]) -> Runner:
    """Steps a transformation that is made again for each step's rate."""

    def runner(gradients: Path, rates: Sequence[float] | None) -> Path:
        parameters = jnp.array(inputs.PARAMETERS, "float64")
        used = rates or [RATE] * len(gradients)
        state = make(used[0]).init(parameters)
        path = []
        for values, rate in zip(gradients, used, strict=True):
            updates, state = make(rate).update(jnp.array(values, "float64"), state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            path.append(np.asarray(parameters).tolist())
        return path

    return runner


def case(
    file: str, name: str, make: Callable[[float], Any], scalar: Callable[..., list[float]],
    fields: dict[str, Any], convention: str = "OPTAX", **knobs: Any,
) -> Row:  # fmt: skip
    spec = optimizer_spec(convention, file, **fields)
    return trajectory(file, name, "optax", spec, run(make), scalar, **knobs)


def defaults(
    file: str, make: Callable[[float], Any], scalar: Callable[..., list[float]], **knobs: Any
) -> Row:
    return case(file, "optax_defaults", make, scalar, {"learning_rate": RATE}, own_rate=RATE, **knobs)


def optimizers() -> list[Row]:
    return [*simple(), *adaptive(), *adams(), *amsgrads(), *relatives(), *tensorwise()]


def simple() -> list[Row]:
    def average(lr: float) -> Any:
        return optax.chain(optax.ema(0.8, debias=False), optax.scale(-lr))

    return [
        case("sgd", "optax", optax.sgd, oracle.sgd, {}),
        defaults("sgd", optax.sgd, oracle.sgd),
        case("momentum", "optax", lambda lr: optax.sgd(lr, 0.8), oracle.momentum, {"momentum": 0.8},
             form="HEAVY_BALL", mu=0.8, dampening=0.0),
        defaults("momentum", lambda lr: optax.sgd(lr, 0.9), oracle.momentum,
                 form="HEAVY_BALL", mu=0.9, dampening=0.0),
        case("momentum", "optax_ema", average, oracle.momentum, {"momentum": 0.8}, convention="LECTURE",
             form="EMA", mu=0.8, dampening=0.0, note="optax.ema without debiasing, then scaled by the rate"),
        case("nesterov", "optax", lambda lr: optax.sgd(lr, 0.8, nesterov=True), oracle.nesterov,
             {"momentum": 0.8}, form="TORCH", mu=0.8),
        defaults("nesterov", lambda lr: optax.sgd(lr, 0.9, nesterov=True), oracle.nesterov,
                 form="TORCH", mu=0.9),
    ]  # fmt: skip


def adaptive() -> list[Row]:
    eps = {"epsilon": EPSILON}
    rows = [
        case("adagrad", "optax", lambda lr: optax.adagrad(lr, eps=EPSILON), oracle.adagrad, eps,
             placement="INSIDE", initial=0.1, decay=0.0, **eps),
        defaults("adagrad", optax.adagrad, oracle.adagrad, placement="INSIDE", initial=0.1, decay=0.0,
                 epsilon=1e-7),
        case("adadelta", "optax", lambda lr: optax.adadelta(lr, rho=0.8, eps=EPSILON), oracle.adadelta,
             {"rho": 0.8, **eps}, rho=0.8, **eps),
        defaults("adadelta", optax.adadelta, oracle.adadelta, rho=0.9, epsilon=1e-6),
        defaults("rmsprop", optax.rmsprop, oracle.rmsprop, rho=0.9, mu=0.0, epsilon=1e-8,
                 placement="INSIDE", centered=False, form="CLASSICAL"),
    ]  # fmt: skip
    return rows + [
        rmsprop(momentum, centered, inside)
        for momentum in (0.0, 0.8) for centered in (False, True) for inside in (True, False)
    ]  # fmt: skip


def rmsprop(momentum: float, centered: bool, inside: bool) -> Row:
    parts = ("_momentum" * bool(momentum), "_centered" * centered, "_outside" * (not inside))
    fields = {"rho": 0.8, "epsilon": EPSILON, "momentum": momentum, "centered": centered}

    def make(lr: float) -> Any:
        return optax.rmsprop(lr, decay=0.8, eps=EPSILON, eps_in_sqrt=inside, centered=centered,
                             momentum=momentum or None)  # fmt: skip

    return case("rmsprop", "optax" + "".join(parts), make, oracle.rmsprop,
                fields | ({} if inside else OUTSIDE), rho=0.8, mu=momentum, epsilon=EPSILON,
                placement="INSIDE" if inside else "OUTSIDE", centered=centered,
                form="CLASSICAL")  # fmt: skip


def adams() -> list[Row]:
    return [
        case("adam", "optax", lambda lr: optax.adam(lr, **OPTAX_KNOBS), oracle.adam, KNOBS, **(ADAM | KNOBS)),
        case("adam", "optax_inside", lambda lr: optax.adam(lr, eps=0.0, eps_root=EPSILON), oracle.adam,
             {"epsilon": EPSILON, **INSIDE}, **(ADAM | {"epsilon": EPSILON, "placement": "INSIDE"}),
             note="optax with eps 0 and eps_root 0.01"),
        case("adam", "optax_root", lambda lr: optax.adam(lr, **OPTAX_ROOTS), oracle.adam, ROOTS,
             **(ADAM | ROOTS)),
        defaults("adam", optax.adam, oracle.adam, epsilon=1e-8, **ADAM),
        case("adamw", "optax", lambda lr: optax.adamw(lr, weight_decay=0.1, **OPTAX_KNOBS), oracle.adam,
             {"weight_decay": 0.1, **KNOBS}, weight_decay=0.1, **(ADAM | KNOBS)),
        case("adamw", "optax_inside", lambda lr: optax.adamw(lr, weight_decay=0.1, eps=0.0, eps_root=EPSILON),
             oracle.adam, {"weight_decay": 0.1, "epsilon": EPSILON, **INSIDE}, weight_decay=0.1,
             **(ADAM | {"epsilon": EPSILON, "placement": "INSIDE"}),
             note="optax with eps 0 and eps_root 0.01"),
        case("adamw", "optax_root", lambda lr: optax.adamw(lr, weight_decay=0.1, **OPTAX_ROOTS), oracle.adam,
             {"weight_decay": 0.1, **ROOTS}, weight_decay=0.1, **(ADAM | ROOTS)),
        defaults("adamw", optax.adamw, oracle.adam, weight_decay=1e-4, epsilon=1e-8, **ADAM),
    ]  # fmt: skip


def amsgrads() -> list[Row]:
    raw = {"bias_correction_mu": False, "bias_correction_nu": False}
    return [
        case("amsgrad", "optax", lambda lr: optax.amsgrad(lr, **OPTAX_KNOBS), oracle.adam, KNOBS,
             maximum="CORRECTED", **(ADAM | KNOBS)),
        case("amsgrad", "optax_inside", lambda lr: optax.amsgrad(lr, b2=0.95, eps=0.0, eps_root=EPSILON),
             oracle.adam, {"beta2": 0.95, "epsilon": EPSILON, **INSIDE}, maximum="CORRECTED",
             **(ADAM | {"beta2": 0.95, "epsilon": EPSILON, "placement": "INSIDE"}),
             note="optax with eps 0 and eps_root 0.01"),
        case("amsgrad", "optax_root", lambda lr: optax.amsgrad(lr, **OPTAX_ROOTS), oracle.adam, ROOTS,
             maximum="CORRECTED", **(ADAM | ROOTS)),
        defaults("amsgrad", optax.amsgrad, oracle.adam, maximum="CORRECTED", epsilon=1e-8, **ADAM),
        case("amsgrad", "optax_without_correction",
             lambda lr: optax.chain(optax.scale_by_amsgrad(**OPTAX_KNOBS, **raw), optax.scale(-lr)),
             oracle.adam,
             KNOBS | {"maximum": "AMSGRAD_MAXIMUM_RAW", "bias_correction": "BIAS_CORRECTION_NONE"},
             maximum="RAW", **(ADAM | KNOBS | {"correction": "NONE"}),
             note="optax.scale_by_amsgrad with both bias corrections off: the paper's form"),
    ]  # fmt: skip


def relatives() -> list[Row]:
    return [
        case("nadam", "optax", lambda lr: optax.nadam(lr, **OPTAX_KNOBS), oracle.nadam, KNOBS,
             form="CONSTANT", psi=0.0, **KNOBS),
        case("nadam", "optax_root", lambda lr: optax.nadam(lr, **OPTAX_ROOTS), oracle.nadam, ROOTS,
             form="CONSTANT", psi=0.0, **ROOTS),
        defaults("nadam", optax.nadam, oracle.nadam, form="CONSTANT", psi=0.0, beta1=0.9, beta2=0.999,
                 epsilon=1e-8),
        case("adamax", "optax", lambda lr: optax.adamax(lr, **OPTAX_KNOBS), oracle.adamax, KNOBS,
             form="GRADIENT", **KNOBS),
        defaults("adamax", optax.adamax, oracle.adamax, form="GRADIENT", beta1=0.9, beta2=0.999,
                 epsilon=1e-8),
    ]  # fmt: skip


def tensorwise() -> list[Row]:
    lamb = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON, "weight_decay": 0.1}
    lars = {"momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.5, "epsilon": EPSILON}
    lars_knobs = {"momentum": 0.8, "weight_decay": 0.1, "coefficient": 0.5, "epsilon": EPSILON}
    optax_lars = {"momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.5, "eps": EPSILON}
    usual = {"momentum": 0.9, "weight_decay": 0.0, "coefficient": 0.001, "epsilon": 0.0}
    return [
        case("lamb", "optax", lambda lr: optax.lamb(lr, weight_decay=0.1, **OPTAX_KNOBS), tensors.lamb,
             lamb, whole=True, **lamb),
        case("lamb", "optax_root", lambda lr: optax.lamb(lr, weight_decay=0.1, **OPTAX_ROOTS), tensors.lamb,
             {"weight_decay": 0.1, **ROOTS}, whole=True, weight_decay=0.1, **ROOTS),
        defaults("lamb", optax.lamb, tensors.lamb, whole=True, beta1=0.9, beta2=0.999, epsilon=1e-6,
                 weight_decay=0.0),
        case("lars", "optax", lambda lr: optax.lars(lr, **optax_lars), tensors.lars, lars, whole=True,
             nesterov=False, **lars_knobs),
        case("lars", "optax_nesterov", lambda lr: optax.lars(lr, nesterov=True, **optax_lars), tensors.lars,
             lars | {"nesterov": True}, whole=True, nesterov=True, **lars_knobs),
        defaults("lars", optax.lars, tensors.lars, whole=True, nesterov=False, **usual),
    ]  # fmt: skip


def run_guarded(make: Callable[[float], Any], ema: Any = None) -> guards.Runner:
    """Steps a transformation over named tensors, whose average is that of ``ema``."""

    def runner(case: guards.Guarded) -> list[tuple[guards.Nested, guards.Nested]]:
        rates = case.settings.rates
        parameters = {n: jnp.array(v, "float64") for n, v in case.parameters.items()}
        state, path = make(rates[0]).init(parameters), []
        kept = ema and ema.init(parameters)
        for values, rate in zip(case.gradients, rates, strict=True):
            gradients = {n: jnp.array(v, "float64") for n, v in values.items()}
            updates, state = make(rate).update(gradients, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
            average = parameters
            if ema:
                average, kept = ema.update(parameters, kept)
            path.append((snapshot(parameters), snapshot(average)))
        return path

    return runner


def snapshot(tensors: Any) -> guards.Nested:
    return guards.name_arrays(sorted(tensors), (np.asarray(tensors[n]) for n in sorted(tensors)))


def guard_rows() -> list[Row]:
    s, clip, rates = gradient.Settings, gradient.Clip, guards.RATES

    def row(
        file: str,
        name: str,
        fields: dict[str, Any],
        settings: gradient.Settings,
        before: Any,
        ema: Any = None,
    ) -> Row:
        runner = run_guarded(lambda lr: optax.chain(before, optax.sgd(lr)), ema)
        return guards.row(file, name, "optax", "OPTAX", fields, settings, runner)

    only_kernel = {"bias": False, "kernel": True}
    return [
        row("by_value", "optax", {"gradient": {"clip": {"by_value": {"max_value": 0.25}}}},
            s(rates, clip=clip("by_value", -0.25, 0.25)), optax.clip(0.25)),
        row("by_global_norm", "optax", {"gradient": {"clip": {"by_global_norm": {"max_norm": 0.75}}}},
            s(rates, clip=clip("by_global_norm", 0.75, 0.0)), optax.clip_by_global_norm(0.75)),
        row("decoupled_weight_decay", "optax", {"decoupled_weight_decay": 0.1},
            s(rates, decay=guards.everywhere(0.1)), optax.add_decayed_weights(0.1)),
        row("weight_average", "optax", {"weight_average": {"decay": 0.75}},
            s(rates, average=0.75, average_start="DEBIASED"), optax.identity(), optax.ema(0.75)),
        row("weight_average", "optax_biased",
            {"weight_average": {"decay": 0.75, "start": "WEIGHT_AVERAGE_START_ZERO"}},
            s(rates, average=0.75, average_start="ZERO"), optax.identity(), optax.ema(0.75, debias=False)),
        row("groups", "optax_masked_decay",
            {"decoupled_weight_decay": 0.1,
             "groups": [{"name": "undecayed", "tensors": ["b*"], "decoupled_weight_decay": 0.0}]},
            s(rates, decay={"kernel": 0.1}), optax.add_decayed_weights(0.1, mask=only_kernel)),
    ]  # fmt: skip


def schedule_rows() -> list[Row]:
    rows = []
    for staircase in (False, True):
        name = "optax_staircase" if staircase else "optax"
        schedule = optax.exponential_decay(0.1, 7, 0.5, staircase=staircase)
        fields = {"initial_learning_rate": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": staircase}
        knobs = {"initial": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": staircase}
        rows.append(functions.schedule("exponential", name, "optax", "OPTAX", fields, evaluate(schedule),
                                       schedules.exponential, knobs))  # fmt: skip
    stairs = {"boundaries": [5, 12], "values": [0.1, 0.1 * 0.25, 0.1 * 0.25 * 0.25]}
    schedule = optax.piecewise_constant_schedule(0.1, {5: 0.25, 12: 0.25})
    rows.append(functions.schedule("piecewise_constant", "optax", "optax", "OPTAX", stairs,
                                   evaluate(schedule), schedules.piecewise_constant,
                                   {**stairs, "side": "AFTER"}))  # fmt: skip
    return rows


def evaluate(schedule: Any) -> Callable[[int], float]:
    return lambda step: float(schedule(jnp.asarray(step, "int64")))


def loss_rows() -> list[Row]:
    rows = []
    for file, function, line in (
        ("categorical_crossentropy", optax.softmax_cross_entropy, losses.categorical(True, 0.0)),
        (
            "sparse_categorical_crossentropy",
            optax.softmax_cross_entropy_with_integer_labels,
            losses.sparse(True),
        ),
    ):
        rows.append(loss(file, {"from_logits": True}, function, line))
    return rows


def loss(file: str, fields: dict[str, Any], function: Callable[..., Any], line: Line) -> Row:
    given = functions.loss_inputs(file, "logits")

    def framework() -> dict[str, Any]:
        prediction, target = jnp.array(given["prediction"]), jnp.array(given["target"])
        value, slope = jax.value_and_grad(lambda p: jnp.mean(function(p, target)))(prediction)
        each = np.asarray(function(prediction, target)).tolist()
        return {"value": float(value), "per_example": each, "gradient": np.asarray(slope).tolist()}

    return functions.loss(file, "optax_logits", "optax", "OPTAX", "SUM_OVER_BATCH_SIZE", fields, given,
                          framework, line)  # fmt: skip


def activation_rows() -> list[Row]:
    return [
        activation("sigmoid", "jax", jax.nn.sigmoid, activations.sigmoid),
        activation("tanh", "jax", jax.nn.tanh, activations.tanh),
        activation("relu", "jax", jax.nn.relu, activations.relu),
        activation("leaky_relu", "jax_defaults", jax.nn.leaky_relu, activations.leaky_relu(0.01)),
        activation("softmax", "jax_defaults", jax.nn.softmax, None),
    ]


def activation(
    file: str, name: str, function: Callable[[Any], Any], scalar: activations.Scalar | None
) -> Row:
    def framework(x: Any, output_gradient: Any) -> tuple[Any, Any]:
        output, pull_back = jax.vjp(function, jnp.array(x))
        return np.asarray(output).tolist(), np.asarray(pull_back(jnp.array(output_gradient))[0]).tolist()

    return functions.activation(file, name, "optax", "OPTAX", {}, framework, scalar)


def rows() -> list[Row]:
    """Every case whose source is optax or JAX."""
    assert jax.config.jax_enable_x64, "set JAX_ENABLE_X64=1 before anything imports JAX"
    return [*optimizers(), *guard_rows(), *schedule_rows(), *loss_rows(), *activation_rows()]
