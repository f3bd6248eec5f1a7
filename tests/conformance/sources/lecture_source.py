"""Cases that no framework computes: the lecture's forms, by the float64 oracle.

The look-ahead forms of Nesterov's gradient take their gradients at another point than the
parameters; no framework offers that. The others are the formulas that the lecture and the
books print: no epsilon, no bias correction, or epsilon beside the root.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tests.conformance import inputs
from tests.conformance.inputs import EPSILON
from tests.conformance.oracle import activations, gradient, schedules
from tests.conformance.oracle.losses import class_losses as losses
from tests.conformance.sources import functions, guards
from tests.conformance.sources.row import Row, by_step, optimizer_spec, oracle, trajectory

ADAM = {"beta1": 0.9, "beta2": 0.999, "placement": "OUTSIDE"}
OUTSIDE = {"epsilon_placement": "EPSILON_PLACEMENT_OUTSIDE"}
INSIDE = {"epsilon_placement": "EPSILON_PLACEMENT_INSIDE"}


def case(
    file: str, name: str, scalar: Callable[..., list[float]], fields: dict[str, Any],
    convention: str = "LECTURE", **knobs: Any,
) -> Row:  # fmt: skip
    return trajectory(
        file, name, "lecture", optimizer_spec(convention, file, **fields), None, scalar, **knobs
    )


def optimizers() -> list[Row]:
    rms = {"rho": 0.9, "mu": 0.0, "centered": False, "form": "CLASSICAL"}
    eps = {"epsilon": EPSILON}
    return [
        case("sgd", "lecture", oracle.sgd, {}),
        case("momentum", "lecture_defaults", oracle.momentum, {}, form="EMA", mu=0.9, dampening=0.0),
        case("momentum", "lecture_classical", oracle.momentum,
             {"momentum": 0.5, "form": "MOMENTUM_FORM_CLASSICAL"}, form="CLASSICAL", mu=0.5, dampening=0.0),
        lookahead("lecture_ema", {}, "LOOKAHEAD_EMA", 0.9),
        lookahead("lecture_classical", {"momentum": 0.5, "form": "NESTEROV_FORM_LOOKAHEAD"},
                  "LOOKAHEAD", 0.5),
        case("adagrad", "lecture_defaults", oracle.adagrad, {},
             epsilon=0.0, placement="INSIDE", initial=0.0, decay=0.0),
        case("adagrad", "book", oracle.adagrad, {"epsilon": 1e-7, **OUTSIDE},
             epsilon=1e-7, placement="OUTSIDE", initial=0.0, decay=0.0,
             note="the Deep Learning book's form: delta = 1e-7 beside the root"),
        case("adagrad", "legacy_keras", oracle.adagrad,
             {"initial_accumulator": 0.1, **eps, **OUTSIDE}, convention="KERAS",
             placement="OUTSIDE", initial=0.1, decay=0.0, **eps, note="tf.keras before Keras 3"),
        case("rmsprop", "lecture_defaults", oracle.rmsprop, {}, epsilon=0.0, placement="INSIDE", **rms),
        case("adadelta", "lecture_defaults", oracle.adadelta, {}, rho=0.95, epsilon=1e-6,
             note="an epsilon of 0 would never leave the start, so the lecture's form keeps a small one"),
        *adams(),
    ]  # fmt: skip


def adams() -> list[Row]:
    eps = {"epsilon": EPSILON}
    none = {"bias_correction": "BIAS_CORRECTION_NONE"}
    return [
        case("adam", "lecture_defaults", oracle.adam, {}, correction="HATTED", epsilon=0.0, **ADAM),
        case("adam", "uncorrected", oracle.adam, none | eps, correction="NONE", **ADAM, **eps),
        case("adam", "keras_inside", oracle.adam, eps | INSIDE, convention="KERAS", correction="FOLDED",
             **(ADAM | {"placement": "INSIDE"}), **eps),
        case("adam", "uncorrected_inside", oracle.adam, none | eps | INSIDE, correction="NONE",
             **(ADAM | {"placement": "INSIDE"}), **eps),
        case("amsgrad", "lecture_inside", oracle.adam, eps | INSIDE, maximum="UNCORRECTED",
             **(ADAM | {"placement": "INSIDE", "correction": "NONE"}), **eps),
        case("amsgrad", "lecture_defaults", oracle.adam, {}, maximum="UNCORRECTED", correction="NONE",
             epsilon=0.0, **ADAM),
        case("adamw", "uncorrected", oracle.adam, none | eps | {"weight_decay": 0.05}, weight_decay=0.05,
             correction="NONE", **ADAM, **eps),
        case("nadam", "lecture", oracle.nadam, eps | {"form": "NADAM_FORM_CONSTANT"},
             form="CONSTANT", psi=0.0, beta1=0.9, beta2=0.999, **eps),
        case("adamax", "lecture", oracle.adamax, {"form": "ADAMAX_FORM_DENOMINATOR"}, form="DENOMINATOR",
             beta1=0.9, beta2=0.999, epsilon=0.0),
    ]  # fmt: skip


def lookahead(name: str, fields: dict[str, Any], form: str, mu: float) -> Row:
    row = case("nesterov", name, oracle.nesterov, fields, form=form, mu=mu,
               note="gradients are given as taken at the look-ahead points")  # fmt: skip
    points = by_step(oracle.lookahead, inputs.LEARNING_RATES, {"form": form, "mu": mu})
    return dataclasses.replace(row, oracle=lambda: {**row.oracle(), "lookahead": points})


def guard_rows() -> list[Row]:
    s, rates = gradient.Settings, guards.RATES

    def row(file: str, name: str, fields: dict[str, Any], settings: gradient.Settings) -> Row:
        return guards.row(file, name, "lecture", "KERAS", fields, settings, None)

    one_sided = {"by_value": {"min_value": -0.125, "max_value": 0.5}}
    mixed = {
        "accumulation_steps": 2,
        "l1": 0.03125,
        "l2": 0.03125,
        "clip": {"by_global_norm": {"max_norm": 0.75}},
    }
    return [
        row("l2", "lecture", {"gradient": {"l2": 0.03}}, s(rates, l2=0.03)),
        row("by_value", "two_ends", {"gradient": {"clip": one_sided}},
            s(rates, clip=gradient.Clip("by_value", -0.125, 0.5))),
        row("groups", "order_of_one_step",
            {"gradient": mixed, "decoupled_weight_decay": 0.1, "weight_average": {"decay": 0.75},
             "groups": [{"name": "slow", "tensors": ["bias"], "learning_rate_factor": 0.5}]},
            s(rates, accumulation=2, l1=0.03125, l2=0.03125, clip=gradient.Clip("by_global_norm", 0.75, 0.0),
              decay=guards.everywhere(0.1), rate_factor={"bias": 0.5}, average=0.75,
              average_every_call=True)),
    ]  # fmt: skip


def schedule_rows() -> list[Row]:
    fields = {"initial_learning_rate": 0.5, "decay_steps": 3.0, "decay_rate": 0.875}
    knobs = {"initial": 0.5, "decay_steps": 3.0, "decay_rate": 0.875, "staircase": False}
    legacy = {"initial_learning_rate": 0.01, "decay_steps": 1.0, "decay_rate": 0.001}
    legacy_knobs = {"initial": 0.01, "decay_steps": 1.0, "decay_rate": 0.001, "staircase": False}
    return [
        functions.schedule("exponential", "lecture", "lecture", "LECTURE", fields, None,
                           schedules.exponential, knobs),
        functions.schedule("inverse_time", "legacy_decay", "lecture", "LECTURE", legacy, None,
                           schedules.inverse_time, legacy_knobs, note="the decay argument of legacy Keras"),
    ]  # fmt: skip


def loss_rows() -> list[Row]:
    """Along the first axis, where the frameworks' sparse form does not go."""
    rows = []
    for logits in (False, True):
        data = "logits" if logits else "probabilities"
        for file, line in (
            ("categorical_crossentropy", losses.categorical(logits, 0.0)),
            ("sparse_categorical_crossentropy", losses.sparse(logits)),
        ):
            given = functions.loss_inputs(file, data, axis=0)
            if file.startswith("sparse"):
                given["target"] = [0, 2, 1]
            rows.append(
                functions.loss(file, f"{data}_first_axis", "lecture", "KERAS", "SUM_OVER_BATCH_SIZE",
                               {"from_logits": logits, "axis": 0}, given, None, line, 0)
            )  # fmt: skip
    return rows


def activation_rows() -> list[Row]:
    return [
        functions.activation("leaky_relu", "tensorflow", "lecture", "LECTURE", {"negative_slope": 0.2}, None,
                             activations.leaky_relu(0.2)),
        functions.activation("sigmoid", "lecture", "lecture", "LECTURE", {}, None, activations.sigmoid),
        functions.activation("tanh", "lecture", "lecture", "LECTURE", {}, None, activations.tanh),
    ]  # fmt: skip


def rows() -> list[Row]:
    """Every case whose source is the oracle itself."""
    return [*optimizers(), *guard_rows(), *schedule_rows(), *loss_rows(), *activation_rows()]
