"""Keras 3 on JAX in float64.

Left out: label smoothing along another axis than the last, where Keras divides by the last
axis' extent instead of the number of classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src import backend

from tests.conformance import inputs
from tests.conformance.corpus import FRAMEWORK_FLOAT32
from tests.conformance.inputs import EPSILON
from tests.conformance.oracle import activations, gradient, schedules, tensors
from tests.conformance.oracle.losses import class_losses as losses
from tests.conformance.oracle.losses.evaluation import Line
from tests.conformance.sources import functions, guards
from tests.conformance.sources.row import Path, Row, Runner, optimizer_spec, oracle, trajectory, underscore

ADAM = {"beta1": 0.9, "beta2": 0.999, "placement": "OUTSIDE", "correction": "FOLDED"}
ADAM_KNOBS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON}
KERAS_KNOBS = underscore(ADAM_KNOBS)


def run(make: Callable[[], Any]) -> Runner:
    """Steps a fresh optimizer."""

    def runner(gradients: Path, rates: Sequence[float] | None) -> Path:
        optimizer = make()
        variable = keras.Variable(inputs.PARAMETERS, dtype="float64")
        optimizer.build([variable])
        path = []
        for step, values in enumerate(gradients):
            if rates is not None:
                optimizer.learning_rate = rates[step]
            optimizer.apply([jnp.array(values, "float64")], [variable])
            path.append(np.asarray(variable.value).tolist())
        return path

    return runner


def case(
    file: str, name: str, make: Callable[[], Any], scalar: Callable[..., list[float]], fields: dict[str, Any],
    **knobs: Any,
) -> Row:  # fmt: skip
    return trajectory(
        file, name, "keras", optimizer_spec("KERAS", file, **fields), run(make), scalar, **knobs
    )


def optimizers() -> list[Row]:
    return [*simple(), *adaptive(), *adams(), *lambs()]


def simple() -> list[Row]:
    k = keras.optimizers
    return [
        case("sgd", "keras", k.SGD, oracle.sgd, {}),
        case("sgd", "keras_defaults", k.SGD, oracle.sgd, {}, own_rate=0.01),
        case("momentum", "keras", lambda: k.SGD(momentum=0.8), oracle.momentum, {"momentum": 0.8},
             form="CLASSICAL", mu=0.8, dampening=0.0),
        case("momentum", "keras_defaults", lambda: k.SGD(momentum=0.9), oracle.momentum, {}, own_rate=0.01,
             form="CLASSICAL", mu=0.9, dampening=0.0),
        case("nesterov", "keras", lambda: k.SGD(momentum=0.8, nesterov=True), oracle.nesterov,
             {"momentum": 0.8}, form="KERAS", mu=0.8),
        case("nesterov", "keras_defaults", lambda: k.SGD(momentum=0.9, nesterov=True), oracle.nesterov, {},
             own_rate=0.01, form="KERAS", mu=0.9),
    ]  # fmt: skip


def adaptive() -> list[Row]:
    k, eps = keras.optimizers, {"epsilon": EPSILON}
    rows = [
        case("adagrad", "keras", lambda: k.Adagrad(epsilon=EPSILON), oracle.adagrad, eps,
             epsilon=EPSILON, placement="INSIDE", initial=0.1, decay=0.0),
        case("adagrad", "keras_accumulator",
             lambda: k.Adagrad(initial_accumulator_value=0.5, epsilon=EPSILON), oracle.adagrad,
             {"initial_accumulator": 0.5, **eps},
             epsilon=EPSILON, placement="INSIDE", initial=0.5, decay=0.0),
        case("adagrad", "keras_defaults", k.Adagrad, oracle.adagrad, {}, own_rate=0.001,
             epsilon=1e-7, placement="INSIDE", initial=0.1, decay=0.0),
        case("adadelta", "keras", lambda: k.Adadelta(rho=0.9, epsilon=EPSILON), oracle.adadelta,
             {"rho": 0.9, **eps}, rho=0.9, epsilon=EPSILON),
        case("adadelta", "keras_defaults", k.Adadelta, oracle.adadelta, {}, own_rate=0.001,
             rho=0.95, epsilon=1e-7),
        case("rmsprop", "keras_defaults", k.RMSprop, oracle.rmsprop, {}, own_rate=0.001,
             rho=0.9, mu=0.0, epsilon=1e-7, placement="INSIDE", centered=False, form="CLASSICAL"),
    ]  # fmt: skip
    return rows + [rmsprop(momentum, centered) for momentum in (0.0, 0.8) for centered in (False, True)]


def rmsprop(momentum: float, centered: bool) -> Row:
    name = "keras" + ("_momentum" if momentum else "") + ("_centered" if centered else "")
    fields = {"rho": 0.8, "epsilon": EPSILON, "momentum": momentum, "centered": centered}
    return case("rmsprop", name, lambda: keras.optimizers.RMSprop(**fields), oracle.rmsprop, fields,
                rho=0.8, mu=momentum, epsilon=EPSILON, placement="INSIDE", centered=centered,
                form="CLASSICAL")  # fmt: skip


def lambs() -> list[Row]:
    return [
        case("lamb", "keras", lambda: keras.optimizers.Lamb(**KERAS_KNOBS), tensors.lamb, ADAM_KNOBS,
             whole=True, weight_decay=0.0, **ADAM_KNOBS),
        case("lamb", "keras_defaults", keras.optimizers.Lamb, tensors.lamb, {}, own_rate=0.001, whole=True,
             beta1=0.9, beta2=0.999, epsilon=1e-7, weight_decay=0.0),
    ]  # fmt: skip


def adams() -> list[Row]:
    k, eps, knobs = keras.optimizers, {"epsilon": EPSILON}, ADAM_KNOBS
    own = {"own_rate": 0.001}
    return [
        case("adam", "keras", lambda: k.Adam(**eps), oracle.adam, eps, **ADAM, **eps),
        case("adam", "keras_betas", lambda: k.Adam(**KERAS_KNOBS), oracle.adam, knobs, **(ADAM | knobs)),
        case("adam", "keras_defaults", k.Adam, oracle.adam, {}, epsilon=1e-7, **ADAM, **own),
        case("amsgrad", "keras", lambda: k.Adam(amsgrad=True, **KERAS_KNOBS), oracle.adam, knobs,
             maximum="RAW", **(ADAM | knobs)),
        case("amsgrad", "keras_defaults", lambda: k.Adam(amsgrad=True), oracle.adam, {},
             maximum="RAW", epsilon=1e-7, **ADAM, **own),
        case("adamw", "keras", lambda: k.AdamW(weight_decay=0.1, **eps), oracle.adam,
             {"weight_decay": 0.1, **eps}, weight_decay=0.1, **ADAM, **eps),
        case("adamw", "keras_defaults", k.AdamW, oracle.adam, {},
             weight_decay=0.004, epsilon=1e-7, **ADAM, **own),
        case("nadam", "keras", lambda: k.Nadam(**KERAS_KNOBS), oracle.nadam, knobs,
             form="SCHEDULED", psi=1.0, **knobs),
        case("nadam", "keras_defaults", k.Nadam, oracle.nadam, {},
             form="SCHEDULED", psi=1.0, beta1=0.9, beta2=0.999, epsilon=1e-7, **own),
        case("adamax", "keras", lambda: k.Adamax(**KERAS_KNOBS), oracle.adamax, knobs,
             form="DENOMINATOR", **knobs),
        case("adamax", "keras_defaults", k.Adamax, oracle.adamax, {},
             form="DENOMINATOR", beta1=0.9, beta2=0.999, epsilon=1e-7, **own),
    ]  # fmt: skip


def run_guarded(make: Callable[[float], Any]) -> guards.Runner:
    """Steps a fresh optimizer, made for the first rate, over named tensors."""

    def runner(case: guards.Guarded) -> list[tuple[guards.Nested, guards.Nested]]:
        names, optimizer = sorted(case.parameters), make(case.settings.rates[0])
        variables = [keras.Variable(case.parameters[n], dtype="float64") for n in names]
        optimizer.build(variables)
        path = []
        for call, gradients in enumerate(case.gradients):
            optimizer.learning_rate = case.settings.rates[call // case.settings.accumulation]
            optimizer.apply([jnp.array(gradients[n], "float64") for n in names], variables)
            averages = optimizer._model_variables_moving_average if optimizer.use_ema else variables
            now, average = (
                guards.name_arrays(names, (np.asarray(v.value) for v in vs)) for vs in (variables, averages)
            )
            path.append((now, average))
        return path

    return runner


def guard_rows() -> list[Row]:
    sgd, clip, rates = keras.optimizers.SGD, gradient.Clip, guards.RATES
    s = gradient.Settings

    def row(file: str, name: str, fields: dict[str, Any], settings: gradient.Settings, **options: Any) -> Row:
        make = lambda rate: sgd(rate, momentum=settings.momentum, **options)  # noqa: E731
        return guards.row(file, name, "keras", "KERAS", fields, settings, run_guarded(make))

    steps = {"accumulation_steps": 3}
    by_norm = {"gradient": {"clip": {"by_tensor_norm": {"max_norm": 0.5}}}}
    return [
        row("by_value", "keras", {"gradient": {"clip": {"by_value": {"max_value": 0.25}}}},
            s(rates, clip=clip("by_value", -0.25, 0.25)), clipvalue=0.25),
        row("by_tensor_norm", "keras", by_norm, s(rates, clip=clip("by_tensor_norm", 0.5, 0.0)),
            clipnorm=0.5),
        row("by_tensor_norm", "keras_unchanged",
            {"gradient": {"clip": {"by_tensor_norm": {"max_norm": 100.0}}}},
            s(rates, clip=clip("by_tensor_norm", 100.0, 0.0)), clipnorm=100.0),
        row("by_global_norm", "keras", {"gradient": {"clip": {"by_global_norm": {"max_norm": 0.75}}}},
            s(rates, clip=clip("by_global_norm", 0.75, 0.0)), global_clipnorm=0.75),
        row("accumulation_steps", "keras", {"gradient": steps}, s(rates, accumulation=3),
            gradient_accumulation_steps=3),
        row("accumulation_steps", "keras_clipped_and_decayed",
            {"gradient": steps | by_norm["gradient"], "decoupled_weight_decay": 0.1},
            s(rates, accumulation=3, clip=clip("by_tensor_norm", 0.5, 0.0), decay=guards.everywhere(0.1)),
            gradient_accumulation_steps=3, clipnorm=0.5, weight_decay=0.1),
        row("decoupled_weight_decay", "keras", {"decoupled_weight_decay": 0.1},
            s(rates, decay=guards.everywhere(0.1)), weight_decay=0.1),
        row("decoupled_weight_decay", "keras_momentum", {"decoupled_weight_decay": 0.1},
            s(rates, momentum=0.5, rate_in_velocity=True, decay=guards.everywhere(0.1)), weight_decay=0.1),
        row("weight_average", "keras", {"weight_average": {"decay": 0.75}}, s(rates, average=0.75),
            use_ema=True, ema_momentum=0.75),
        row("weight_average", "keras_accumulated", {"gradient": steps, "weight_average": {"decay": 0.75}},
            s(rates, accumulation=3, average=0.75, average_every_call=True),
            gradient_accumulation_steps=3, use_ema=True, ema_momentum=0.75),
        row("weight_average", "keras_defaults", {"weight_average": {}}, s(rates, average=0.99), use_ema=True),
    ]  # fmt: skip


def schedule_rows() -> list[Row]:
    k = keras.optimizers.schedules
    rows = []
    for staircase in (False, True):
        name = "keras_staircase" if staircase else "keras"
        fields = {"initial_learning_rate": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": staircase}
        knobs = {"initial": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": staircase}
        rows += [
            functions.schedule("exponential", name, "keras", "KERAS", fields,
                               evaluate(k.ExponentialDecay(**fields)), schedules.exponential, knobs),
            functions.schedule("inverse_time", name, "keras", "KERAS", fields,
                               evaluate(k.InverseTimeDecay(**fields)), schedules.inverse_time, knobs),
        ]  # fmt: skip
    steps, values = [5, 12], [0.1, 0.03, 0.007]
    fields = {"boundaries": steps, "values": values}
    rows.append(
        functions.schedule("piecewise_constant", "keras", "keras", "KERAS", fields,
                           evaluate(k.PiecewiseConstantDecay(steps, values)), schedules.piecewise_constant,
                           {**fields, "side": "BEFORE"})
    )  # fmt: skip
    return rows


def evaluate(schedule: Any) -> Callable[[int], float]:
    return lambda step: float(schedule(jnp.asarray(step, "int64")))


def loss_rows() -> list[Row]:
    k = keras.losses
    rows = []
    for reduction, name in functions.REDUCTIONS.items():
        rows.append(loss("mean_squared_error", reduction, "matrix", {}, k.MeanSquaredError(reduction=name),
                         losses.mean_squared_error))  # fmt: skip
        for logits in (False, True):
            data = "logits" if logits else "probabilities"
            options = {"from_logits": logits}
            rows += [
                loss("categorical_crossentropy", reduction, data, options,
                     k.CategoricalCrossentropy(reduction=name, **options), losses.categorical(logits, 0.0)),
                loss("sparse_categorical_crossentropy", reduction, data, options,
                     k.SparseCategoricalCrossentropy(reduction=name, **options), losses.sparse(logits)),
            ]  # fmt: skip
    rows.append(loss("categorical_crossentropy", "SUM_OVER_BATCH_SIZE", "middle_axis", {"axis": 1},
                     k.CategoricalCrossentropy(axis=1), losses.categorical(False, 0.0)))  # fmt: skip
    for data in ("probabilities", "logits", "saturated"):
        logits = data == "logits"
        options = {"from_logits": logits, "label_smoothing": 0.1}
        rows.append(loss("categorical_crossentropy", "SUM_OVER_BATCH_SIZE", data, options,
                         k.CategoricalCrossentropy(**options), losses.categorical(logits, 0.1),
                         name="smoothed_" + data))  # fmt: skip
    return rows


def loss(
    file: str, reduction: str, data: str, options: dict[str, Any], function: Any, line: Line,
    name: str = "",
) -> Row:  # fmt: skip
    axis = int(options.get("axis", -1))
    given = functions.loss_inputs(file, data, axis)

    def framework() -> dict[str, Any]:
        target, prediction = jnp.array(given["target"]), jnp.array(given["prediction"])
        value, slope = jax.value_and_grad(lambda p: jnp.sum(function(target, p)))(prediction)
        per_example = function.call(target, prediction)
        answer = {"per_example": np.asarray(per_example).tolist(), "gradient": np.asarray(slope).tolist()}
        return answer if reduction == "NONE" else {"value": float(value), **answer}

    case = "keras_" + (name or f"{data}_{reduction.lower()}")
    row = functions.loss(file, case, "keras", "KERAS", reduction, options, given, framework, line, axis)
    if file != "mean_squared_error":
        return row
    return dataclasses.replace(row, tolerance=FRAMEWORK_FLOAT32, note="Keras on JAX takes means in float32")


def activation_rows() -> list[Row]:
    k = keras.activations
    layer = keras.layers.LeakyReLU(dtype="float64")
    return [
        activation("sigmoid", "keras", {}, k.sigmoid, activations.sigmoid),
        # keras.activations.tanh computes in float32 on JAX; below it lies the backend's function.
        activation("tanh", "keras", {}, backend.nn.tanh, activations.tanh),
        activation("relu", "keras", {}, k.relu, activations.relu),
        activation("leaky_relu", "keras_defaults", {}, layer, activations.leaky_relu(0.3)),
        activation("leaky_relu", "keras_slope", {"negative_slope": 0.125},
                   lambda x: k.leaky_relu(x, negative_slope=0.125), activations.leaky_relu(0.125)),
        activation("softmax", "keras_defaults", {}, k.softmax, None),
        activation("softmax", "keras_first_axis", {"axis": 0}, lambda x: k.softmax(x, axis=0), None, axis=0),
    ]  # fmt: skip


def activation(
    file: str, case: str, fields: dict[str, Any], function: Any, scalar: activations.Scalar | None,
    axis: int = -1,
) -> Row:  # fmt: skip
    def framework(x: Any, output_gradient: Any) -> tuple[Any, Any]:
        output, pull_back = jax.vjp(function, jnp.array(x))
        return np.asarray(output).tolist(), np.asarray(pull_back(jnp.array(output_gradient))[0]).tolist()

    return functions.activation(file, case, "keras", "KERAS", fields, framework, scalar, axis)


def rows() -> list[Row]:
    """Every case whose source is Keras."""
    assert jax.config.jax_enable_x64, "set JAX_ENABLE_X64=1 before anything imports JAX"
    keras.config.set_floatx("float64")
    return [*optimizers(), *guard_rows(), *schedule_rows(), *loss_rows(), *activation_rows()]
