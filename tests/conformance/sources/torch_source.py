"""PyTorch in float64.

float64 is made the default type as well, so that NAdam keeps its product of momenta, which
otherwise is float32, in float64 too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.conformance import inputs
from tests.conformance.inputs import EPSILON
from tests.conformance.oracle import activations, gradient, schedules
from tests.conformance.oracle.losses import class_losses as losses
from tests.conformance.oracle.losses.evaluation import Line
from tests.conformance.sources import functions, guards
from tests.conformance.sources.row import Path, Row, Runner, optimizer_spec, oracle, trajectory

ADAM = {"beta1": 0.9, "beta2": 0.999, "placement": "OUTSIDE", "correction": "HATTED"}
KNOBS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON}
TORCH_KNOBS = {"betas": (0.8, 0.95), "eps": EPSILON}


def run(make: Callable[..., Any], **options: Any) -> Runner:
    """Steps a fresh optimizer."""

    def runner(gradients: Path, rates: Sequence[float] | None) -> Path:
        parameter = torch.tensor(inputs.PARAMETERS, dtype=torch.float64, requires_grad=True)
        optimizer = make([parameter], **options)
        path = []
        for step, values in enumerate(gradients):
            if rates is not None:
                optimizer.param_groups[0]["lr"] = rates[step]
            parameter.grad = torch.tensor(values, dtype=torch.float64)
            optimizer.step()
            path.append(parameter.detach().tolist())
        return path

    return runner


def case(
    file: str, name: str, runner: Runner, scalar: Callable[..., list[float]], fields: dict[str, Any],
    **knobs: Any,
) -> Row:  # fmt: skip
    return trajectory(file, name, "torch", optimizer_spec("TORCH", file, **fields), runner, scalar, **knobs)


def optimizers() -> list[Row]:
    return [*simple(), *adaptive(), *adams(), *rprops()]


def simple() -> list[Row]:
    sgd = torch.optim.SGD
    return [
        case("sgd", "torch", run(sgd), oracle.sgd, {}),
        case("sgd", "torch_defaults", run(sgd), oracle.sgd, {}, own_rate=1e-3),
        case("momentum", "torch", run(sgd, momentum=0.8), oracle.momentum, {"momentum": 0.8},
             form="HEAVY_BALL", mu=0.8, dampening=0.0),
        case("momentum", "torch_dampening", run(sgd, momentum=0.8, dampening=0.25), oracle.momentum,
             {"momentum": 0.8, "dampening": 0.25}, form="HEAVY_BALL", mu=0.8, dampening=0.25),
        case("momentum", "torch_defaults", run(sgd, momentum=0.9), oracle.momentum, {}, own_rate=1e-3,
             form="HEAVY_BALL", mu=0.9, dampening=0.0),
        case("nesterov", "torch", run(sgd, momentum=0.8, nesterov=True), oracle.nesterov, {"momentum": 0.8},
             form="TORCH", mu=0.8),
        case("nesterov", "torch_defaults", run(sgd, momentum=0.9, nesterov=True), oracle.nesterov, {},
             own_rate=1e-3, form="TORCH", mu=0.9),
    ]  # fmt: skip


def adaptive() -> list[Row]:
    o, eps = torch.optim, {"epsilon": EPSILON}
    rows = [
        case("adagrad", "torch", run(o.Adagrad, eps=EPSILON), oracle.adagrad, eps,
             placement="OUTSIDE", initial=0.0, decay=0.0, **eps),
        case("adagrad", "torch_decay",
             run(o.Adagrad, eps=EPSILON, lr_decay=0.1, initial_accumulator_value=0.5), oracle.adagrad,
             {"learning_rate_decay": 0.1, "initial_accumulator": 0.5, **eps},
             placement="OUTSIDE", initial=0.5, decay=0.1, **eps),
        case("adagrad", "torch_defaults", run(o.Adagrad), oracle.adagrad, {}, own_rate=1e-2,
             placement="OUTSIDE", initial=0.0, decay=0.0, epsilon=1e-10),
        case("adadelta", "torch", run(o.Adadelta, rho=0.8, eps=EPSILON), oracle.adadelta, {"rho": 0.8, **eps},
             rho=0.8, **eps),
        case("adadelta", "torch_defaults", run(o.Adadelta), oracle.adadelta, {}, own_rate=1.0,
             rho=0.9, epsilon=1e-6),
        case("rmsprop", "torch_defaults", run(o.RMSprop), oracle.rmsprop, {}, own_rate=1e-2,
             rho=0.99, mu=0.0, epsilon=1e-8, placement="OUTSIDE", centered=False, form="HEAVY_BALL"),
    ]  # fmt: skip
    return rows + [rmsprop(momentum, centered) for momentum in (0.0, 0.8) for centered in (False, True)]


def rmsprop(momentum: float, centered: bool) -> Row:
    name = "torch" + ("_momentum" if momentum else "") + ("_centered" if centered else "")
    runner = run(torch.optim.RMSprop, alpha=0.8, eps=EPSILON, momentum=momentum, centered=centered)
    fields = {"rho": 0.8, "epsilon": EPSILON, "momentum": momentum, "centered": centered}
    return case("rmsprop", name, runner, oracle.rmsprop, fields, rho=0.8, mu=momentum, epsilon=EPSILON,
                placement="OUTSIDE", centered=centered, form="HEAVY_BALL")  # fmt: skip


def adams() -> list[Row]:
    o, eps = torch.optim, {"epsilon": EPSILON}
    return [
        case("adam", "torch", run(o.Adam, eps=EPSILON), oracle.adam, eps, **ADAM, **eps),
        case("adam", "torch_betas", run(o.Adam, **TORCH_KNOBS), oracle.adam, KNOBS, **(ADAM | KNOBS)),
        case("adam", "torch_defaults", run(o.Adam), oracle.adam, {}, own_rate=1e-3, epsilon=1e-8, **ADAM),
        case("amsgrad", "torch", run(o.Adam, amsgrad=True, **TORCH_KNOBS), oracle.adam, KNOBS,
             maximum="RAW", **(ADAM | KNOBS)),
        case("amsgrad", "torch_defaults", run(o.Adam, amsgrad=True), oracle.adam, {}, own_rate=1e-3,
             maximum="RAW", epsilon=1e-8, **ADAM),
        case("adamw", "torch", run(o.AdamW, weight_decay=0.1, **TORCH_KNOBS), oracle.adam,
             {"weight_decay": 0.1, **KNOBS}, weight_decay=0.1, **(ADAM | KNOBS)),
        case("adamw", "torch_defaults", run(o.AdamW), oracle.adam, {}, own_rate=1e-3,
             weight_decay=0.01, epsilon=1e-8, **ADAM),
        case("nadam", "torch", run(o.NAdam, momentum_decay=0.1, **TORCH_KNOBS), oracle.nadam,
             {"momentum_decay": 0.1, **KNOBS}, form="SCHEDULED", psi=0.1, **KNOBS),
        case("nadam", "torch_defaults", run(o.NAdam), oracle.nadam, {}, own_rate=2e-3,
             form="SCHEDULED", psi=0.004, beta1=0.9, beta2=0.999, epsilon=1e-8),
        case("adamax", "torch", run(o.Adamax, **TORCH_KNOBS), oracle.adamax, KNOBS, form="GRADIENT", **KNOBS),
        case("adamax", "torch_defaults", run(o.Adamax), oracle.adamax, {}, own_rate=2e-3,
             form="GRADIENT", beta1=0.9, beta2=0.999, epsilon=1e-8),
    ]  # fmt: skip


def rprops() -> list[Row]:
    rprop = torch.optim.Rprop
    fields = {"learning_rate": 0.02, "eta_minus": 0.4, "eta_plus": 1.5,
              "step_size_min": 0.006, "step_size_max": 0.04}  # fmt: skip
    bounds = {"eta_minus": 0.4, "eta_plus": 1.5, "smallest": 0.006, "largest": 0.04}
    usual = {"eta_minus": 0.5, "eta_plus": 1.2, "smallest": 1e-6, "largest": 50.0}
    return [
        case("rprop", "torch", run(rprop, lr=0.02, etas=(0.4, 1.5), step_sizes=(0.006, 0.04)), oracle.rprop,
             fields, own_rate=0.02, initial=0.02, **bounds),
        case("rprop", "torch_first_step_bounded",
             run(rprop, lr=0.08, etas=(0.4, 1.5), step_sizes=(0.006, 0.04)), oracle.rprop,
             fields | {"learning_rate": 0.08}, own_rate=0.08, initial=0.08, **bounds),
        case("rprop", "torch_defaults", run(rprop), oracle.rprop, {}, own_rate=0.01, initial=0.01, **usual),
        case("rprop", "torch_default_smallest", run(rprop, lr=1.5e-6), oracle.rprop,
             {"learning_rate": 1.5e-6}, own_rate=1.5e-6, initial=1.5e-6, **usual),
    ]  # fmt: skip


def run_guarded(
    clip: Callable[[list[Any]], Any] | None = None, l1: float = 0.0, **options: Any
) -> guards.Runner:
    """Steps SGD over named tensors with what torch has for it; groups by the settings' factors."""

    def runner(case: guards.Guarded) -> list[tuple[guards.Nested, guards.Nested]]:
        names, s = sorted(case.parameters), case.settings
        tensors = [torch.tensor(case.parameters[n], requires_grad=True) for n in names]
        groups = [{"params": [t]} for t in tensors]
        optimizer = torch.optim.SGD(groups, lr=s.rates[0], momentum=s.momentum, **options)
        default = s.average in (None, 0.999)
        swa = torch.optim.swa_utils
        average = swa.get_ema_multi_avg_fn() if default else swa.get_ema_multi_avg_fn(s.average)
        averages, path = [t.detach().clone() for t in tensors], []
        for step, gradients in enumerate(case.gradients):
            for name, group in zip(names, optimizer.param_groups, strict=True):
                group["lr"] = s.rates[step] * s.rate_factor.get(name, 1.0)
            set_gradients(names, tensors, gradients, l1)
            if clip:
                clip(tensors)
            optimizer.step()
            if step:
                average(averages, [t.detach() for t in tensors], step)
            else:
                averages = [t.detach().clone() for t in tensors]
            path.append(
                (
                    guards.name_arrays(names, (t.detach() for t in tensors)),
                    guards.name_arrays(names, averages),
                )
            )
        return path

    return runner


def set_gradients(names: Sequence[str], tensors: list[Any], gradients: guards.Nested, l1: float) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        tensor.grad = None
        if l1:
            (l1 * tensor.abs().sum()).backward()
        given = torch.tensor(gradients[name])
        tensor.grad = given if tensor.grad is None else tensor.grad + given


def guard_rows() -> list[Row]:
    s, clip, rates, utils = gradient.Settings, gradient.Clip, guards.RATES, torch.nn.utils

    def row(file: str, name: str, fields: dict[str, Any], settings: gradient.Settings, **how: Any) -> Row:
        return guards.row(file, name, "torch", "TORCH", fields, settings, run_guarded(**how))

    def norm_clip(kind: str, largest: float) -> dict[str, Any]:
        return {"gradient": {"clip": {kind: {"max_norm": largest}}}}

    def each(largest: float) -> Callable[[list[Any]], Any]:
        return lambda tensors: [utils.clip_grad_norm_([t], largest) for t in tensors]

    def together(largest: float) -> Callable[[list[Any]], Any]:
        return lambda tensors: utils.clip_grad_norm_(tensors, largest)

    both = {"gradient": {"l1": 0.03125, "l2": 0.0625}}
    return [
        row("by_value", "torch", {"gradient": {"clip": {"by_value": {"max_value": 0.25}}}},
            s(rates, clip=clip("by_value", -0.25, 0.25)), clip=lambda ts: utils.clip_grad_value_(ts, 0.25)),
        row("by_tensor_norm", "torch", norm_clip("by_tensor_norm", 0.5),
            s(rates, clip=clip("by_tensor_norm", 0.5, 1e-6)), clip=each(0.5)),
        row("by_global_norm", "torch", norm_clip("by_global_norm", 0.75),
            s(rates, clip=clip("by_global_norm", 0.75, 1e-6)), clip=together(0.75)),
        row("by_global_norm", "torch_unchanged", norm_clip("by_global_norm", 100.0),
            s(rates, clip=clip("by_global_norm", 100.0, 1e-6)), clip=together(100.0)),
        row("by_global_norm", "torch_momentum", norm_clip("by_global_norm", 0.75),
            s(rates, momentum=0.5, clip=clip("by_global_norm", 0.75, 1e-6)),
            clip=together(0.75)),
        row("l1", "torch", {"gradient": {"l1": 0.0625}}, s(rates, l1=0.0625), l1=0.0625),
        row("l2", "torch", {"gradient": {"l2": 0.0625}}, s(rates, l2=0.0625), weight_decay=0.0625),
        row("l2", "torch_momentum", {"gradient": {"l2": 0.0625}}, s(rates, momentum=0.5, l2=0.0625),
            weight_decay=0.0625),
        row("l2", "torch_and_l1", both, s(rates, l1=0.03125, l2=0.0625), l1=0.03125, weight_decay=0.0625),
        row("weight_average", "torch", {"weight_average": {"decay": 0.75}}, s(rates, average=0.75)),
        row("weight_average", "torch_defaults", {"weight_average": {}}, s(rates, average=0.999)),
        row("groups", "torch",
            {"groups": [{"name": "slow", "tensors": ["bias"], "learning_rate_factor": 0.25}]},
            s(rates, rate_factor={"bias": 0.25})),
        row("groups", "torch_pattern",
            {"groups": [{"name": "fast", "tensors": ["ker*"], "learning_rate_factor": 2.0}]},
            s(rates, momentum=0.5, rate_factor={"kernel": 2.0})),
    ]  # fmt: skip


def schedule_rows() -> list[Row]:
    exponential = {"initial_learning_rate": 0.1, "decay_steps": 1.0, "decay_rate": 0.75}
    knobs = {"initial": 0.1, "decay_steps": 1.0, "decay_rate": 0.75, "staircase": False}
    stairs = {"boundaries": [5, 12], "values": [0.1, 0.1 * 0.25, 0.1 * 0.25 * 0.25]}
    step = {"initial_learning_rate": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": True}
    step_knobs = {"initial": 0.1, "decay_steps": 7.0, "decay_rate": 0.5, "staircase": True}
    return [
        functions.schedule("exponential", "torch_exponential_lr", "torch", "TORCH", exponential,
                           schedule(lr_scheduler.ExponentialLR, gamma=0.75), schedules.exponential, knobs),
        functions.schedule("exponential", "torch_step_lr", "torch", "TORCH", step,
                           schedule(lr_scheduler.StepLR, step_size=7, gamma=0.5), schedules.exponential,
                           step_knobs),
        functions.schedule("piecewise_constant", "torch_multi_step_lr", "torch", "TORCH", stairs,
                           schedule(lr_scheduler.MultiStepLR, milestones=[5, 12], gamma=0.25),
                           schedules.piecewise_constant, {**stairs, "side": "AFTER"}),
    ]  # fmt: skip


def schedule(make: Callable[..., Any], **options: Any) -> Callable[[int], float]:
    """Walks a scheduler that starts at 0.1 to the wanted step."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(max(functions.STEPS) + 1):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return lambda step: rates[step]


REDUCTIONS = {"SUM_OVER_BATCH_SIZE": "mean", "SUM": "sum", "NONE": "none"}


def loss_rows() -> list[Row]:
    rows = []
    for reduction in REDUCTIONS:
        rows += [
            loss("sparse_categorical_crossentropy", reduction, "logits", losses.sparse(True)),
            loss("categorical_crossentropy", reduction, "logits", losses.categorical(True, 0.0)),
            loss("categorical_crossentropy", reduction, "logits", losses.categorical(True, 0.1), 0.1),
            loss("categorical_crossentropy", reduction, "middle_axis", losses.categorical(True, 0.1), 0.1),
            loss("sparse_categorical_crossentropy", reduction, "middle_axis", losses.sparse(True)),
        ]
    return [*rows, mean_squared_error()]


def loss(file: str, reduction: str, data: str, line: Line, smoothing: float = 0.0) -> Row:
    """torch.nn.functional.cross_entropy, whose class axis is 1."""
    fields: dict[str, Any] = {"from_logits": True, "axis": 1}
    if smoothing:
        fields["label_smoothing"] = smoothing
    given = functions.loss_inputs(file, data)
    if file.startswith("categorical") and data == "middle_axis":
        given["target"] = [[[1.0, 0.25], [0.0, 0.25], [0.0, 0.5]], [[0.0, 1.0], [0.75, 0.0], [0.25, 0.0]]]

    def framework() -> dict[str, Any]:
        prediction, target = (
            torch.tensor(given["prediction"], requires_grad=True),
            torch.tensor(given["target"]),
        )
        each = F.cross_entropy(prediction, target, reduction="none", label_smoothing=smoothing)
        value = F.cross_entropy(
            prediction, target, reduction=REDUCTIONS[reduction], label_smoothing=smoothing
        )
        value.sum().backward()
        answer = {"per_example": each.tolist(), "gradient": prediction.grad.tolist()}
        return answer if reduction == "NONE" else {"value": float(value.detach()), **answer}

    name = "torch_" + ("smoothed_" if smoothing else "") + f"{data}_{reduction.lower()}"
    return functions.loss(file, name, "torch", "TORCH", reduction, fields, given, framework, line, 1)


def mean_squared_error() -> Row:
    given = functions.loss_inputs("mean_squared_error", "matrix")

    def framework() -> dict[str, Any]:
        prediction, target = (
            torch.tensor(given["prediction"], requires_grad=True),
            torch.tensor(given["target"]),
        )
        value = F.mse_loss(prediction, target)
        value.backward()
        each = F.mse_loss(prediction, target, reduction="none").mean(-1)
        return {
            "value": float(value.detach()),
            "per_example": each.tolist(),
            "gradient": prediction.grad.tolist(),
        }

    return functions.loss("mean_squared_error", "torch", "torch", "TORCH", "SUM_OVER_BATCH_SIZE", {}, given,
                          framework, losses.mean_squared_error)  # fmt: skip


def activation_rows() -> list[Row]:
    return [
        activation("sigmoid", "torch", {}, torch.sigmoid, activations.sigmoid),
        activation("tanh", "torch", {}, torch.tanh, activations.tanh),
        activation("relu", "torch", {}, F.relu, activations.relu),
        activation("leaky_relu", "torch_defaults", {}, F.leaky_relu, activations.leaky_relu(0.01)),
        activation("softmax", "torch_axis", {"axis": 1}, lambda x: F.softmax(x, 1), None, axis=1),
    ]


def activation(
    file: str, case: str, fields: dict[str, Any], function: Callable[[Any], Any],
    scalar: activations.Scalar | None, axis: int = -1,
) -> Row:  # fmt: skip
    def framework(x: Any, output_gradient: Any) -> tuple[Any, Any]:
        tensor = torch.tensor(x, requires_grad=True)
        output = function(tensor)
        output.backward(torch.tensor(output_gradient))
        return output.tolist(), tensor.grad.tolist()

    return functions.activation(file, case, "torch", "TORCH", fields, framework, scalar, axis)


def rows() -> list[Row]:
    """Every case whose source is PyTorch."""
    torch.set_default_dtype(torch.float64)
    return [*optimizers(), *guard_rows(), *schedule_rows(), *loss_rows(), *activation_rows()]
