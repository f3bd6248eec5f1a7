"""The optimizers that followed Adam, from whichever of Keras, PyTorch and optax has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch
from optax import contrib

from tests.conformance import inputs
from tests.conformance.inputs import EPSILON
from tests.conformance.oracle import later_optimizers as oracle
from tests.conformance.sources import keras_source, optax_source, torch_source
from tests.conformance.sources.row import Row, Runner, by_step, optimizer_spec, trajectory, underscore

BETAS = {"beta1": 0.8, "beta2": 0.95}
OPTAX_BETAS = {"b1": 0.8, "b2": 0.95}
OUTSIDE = {"placement": "OUTSIDE"}
INSIDE = {"epsilon_placement": "EPSILON_PLACEMENT_INSIDE"}
RATE = optax_source.RATE


def radams() -> list[Row]:
    case, knobs = optax_source.case, BETAS | {"epsilon": EPSILON}
    own = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    hatted, folded = OUTSIDE | {"correction": "HATTED"}, OUTSIDE | {"correction": "FOLDED"}
    return [
        torch_source.case("radam", "torch",
                          torch_source.run(torch.optim.RAdam, betas=(0.8, 0.95), eps=EPSILON), oracle.radam,
                          knobs, **folded, **knobs),
        torch_source.case("radam", "torch_defaults", torch_source.run(torch.optim.RAdam), oracle.radam, {},
                          own_rate=1e-3, **folded, **own),
        case("radam", "optax", lambda lr: optax.radam(lr, eps=EPSILON, **OPTAX_BETAS), oracle.radam, knobs,
             **hatted, **knobs),
        case("radam", "optax_inside", lambda lr: optax.radam(lr, eps=0.0, eps_root=EPSILON, **OPTAX_BETAS),
             oracle.radam, knobs | INSIDE, note="optax with eps 0 and eps_root 0.01",
             **(hatted | {"placement": "INSIDE"}), **knobs),
        case("radam", "optax_root", lambda lr: optax.radam(lr, **optax_source.OPTAX_ROOTS), oracle.radam,
             optax_source.ROOTS, **hatted, **optax_source.ROOTS),
        case("radam", "optax_threshold",
             lambda lr: optax.radam(lr, eps=EPSILON, threshold=7.5, **OPTAX_BETAS), oracle.radam,
             knobs | {"threshold": 7.5, "rectified_at_threshold": True}, threshold=7.5, **hatted, **knobs),
        optax_source.defaults("radam", optax.radam, oracle.radam, **hatted, **own),
        *at_threshold(),
        *before_the_threshold(),
    ]  # fmt: skip


def before_the_threshold() -> list[Row]:
    """Averages that never get long enough, so that v has no part in any step and may overflow."""
    start, note = inputs.PARAMETERS, "the gradients' squares overflow float32, and only v sees them"
    gradients = [[2.0**100 * x for x in values] for values in inputs.gradient_steps()]
    rates = [2.0**-100 * rate for rate in inputs.LEARNING_RATES]
    fields = {"beta1": 0.8, "beta2": 0.5}
    given = {"parameters": start, "gradients": gradients, "learning_rates": rates}

    def compute_expected(correction: str) -> dict[str, Any]:
        knobs = OUTSIDE | fields | {"epsilon": 1e-8, "correction": correction}
        columns = [
            oracle.radam(p, [(g[i], rate) for g, rate in zip(gradients, rates, strict=True)], **knobs)
            for i, p in enumerate(start)
        ]
        return {"parameters": [list(row) for row in zip(*columns, strict=True)]}

    def row(name: str, source: str, correction: str, run: Runner) -> Row:
        spec = optimizer_spec(source.upper(), "radam", **fields)
        return Row("optimizers", "radam", name, source, spec, given, lambda: compute_expected(correction),
                   lambda: {"parameters": run(gradients, rates)}, note=note)  # fmt: skip

    return [
        row(
            "torch_overflowing_squares",
            "torch",
            "FOLDED",
            torch_source.run(torch.optim.RAdam, betas=(0.8, 0.5)),
        ),
        row(
            "optax_overflowing_squares",
            "optax",
            "HATTED",
            optax_source.run(lambda lr: optax.radam(lr, b1=0.8, b2=0.5)),
        ),
    ]


def at_threshold() -> list[Row]:
    """The eighth step's average is exactly as long as the threshold: only the quotient is rounded."""
    power = 0.75**8
    length = 7 - 2 * 8 * power / (1 - power)
    fields = {"beta2": 0.75, "threshold": length, "epsilon": EPSILON}
    knobs = OUTSIDE | {"beta1": 0.9, **fields}
    spec = optimizer_spec("TORCH", "radam", **fields)
    return [
        optax_source.case("radam", "optax_at_threshold",
                          lambda lr: optax.radam(lr, b2=0.75, eps=EPSILON, threshold=length), oracle.radam,
                          fields, correction="HATTED", at_threshold=True, **knobs),
        trajectory("radam", "paper_at_threshold", "paper", spec, None, oracle.radam, correction="FOLDED",
                   note="PyTorch has a threshold of 5, which no average meets exactly", **knobs),
    ]  # fmt: skip


def lions() -> list[Row]:
    k, betas = keras.optimizers, {"beta1": 0.8, "beta2": 0.95}
    keras_betas = underscore(betas)
    return [
        keras_source.case("lion", "keras", lambda: k.Lion(**keras_betas), oracle.lion, betas, **betas),
        keras_source.case("lion", "keras_decay", lambda: k.Lion(weight_decay=0.1, **keras_betas),
                          oracle.lion, {"weight_decay": 0.1, **betas}, weight_decay=0.1, **betas),
        keras_source.case("lion", "keras_defaults", k.Lion, oracle.lion, {}, own_rate=1e-3,
                          beta1=0.9, beta2=0.99),
        optax_source.case("lion", "optax", lambda lr: optax.lion(lr, weight_decay=0.1, **OPTAX_BETAS),
                          oracle.lion, {"weight_decay": 0.1, **betas}, weight_decay=0.1, **betas),
        optax_source.defaults("lion", optax.lion, oracle.lion, beta1=0.9, beta2=0.99, weight_decay=1e-3),
    ]  # fmt: skip


def optax_only() -> list[Row]:
    case, defaults, knobs = optax_source.case, optax_source.defaults, BETAS | {"epsilon": EPSILON}
    roots = {"epsilon": EPSILON, "epsilon_root": 0.02}
    optax_roots = {"eps": EPSILON, "eps_root": 0.02}
    adan = {"beta1": 0.9, "beta2": 0.8, "beta3": 0.95}
    initial = {"initial_accumulator": 0.5}
    return [
        case("yogi", "optax", lambda lr: optax.yogi(lr, eps=EPSILON, **OPTAX_BETAS), oracle.yogi, knobs,
             initial=1e-6, **OUTSIDE, **knobs),
        case("yogi", "optax_accumulator",
             lambda lr: optax.chain(
                 optax.scale_by_yogi(eps=0.0, eps_root=EPSILON, initial_accumulator_value=0.5, **OPTAX_BETAS),
                 optax.scale(-lr)),
             oracle.yogi, knobs | initial | INSIDE, initial=0.5, placement="INSIDE", **knobs,
             note="optax.scale_by_yogi with eps 0 and eps_root 0.01"),
        case("yogi", "optax_root",
             lambda lr: optax.chain(optax.scale_by_yogi(**optax_source.OPTAX_ROOTS), optax.scale(-lr)),
             oracle.yogi, optax_source.ROOTS, initial=1e-6, **OUTSIDE, **optax_source.ROOTS,
             note="optax.scale_by_yogi; optax.yogi has no such option"),
        defaults("yogi", optax.yogi, oracle.yogi, initial=1e-6, beta1=0.9, beta2=0.999, epsilon=1e-3,
                 **OUTSIDE),
        case("adabelief", "optax", lambda lr: optax.adabelief(lr, **optax_roots, **OPTAX_BETAS),
             oracle.adabelief, BETAS | roots, **BETAS, **roots),
        defaults("adabelief", optax.adabelief, oracle.adabelief, beta1=0.9, beta2=0.999, epsilon=1e-16,
                 epsilon_root=1e-16),
        case("adan", "optax", lambda lr: optax.adan(lr, b1=0.9, b2=0.8, b3=0.95, **optax_roots),
             oracle.adan, adan | roots, **adan, **roots),
        defaults("adan", optax.adan, oracle.adan, beta1=0.98, beta2=0.92, beta3=0.99, epsilon=1e-8,
                 epsilon_root=1e-8),
        case("adopt", "optax", lambda lr: contrib.adopt(lr, eps=0.25, **OPTAX_BETAS), oracle.adopt,
             BETAS | {"epsilon": 0.25}, epsilon=0.25, **BETAS),
        case("adopt", "optax_unclipped",
             lambda lr: contrib.adopt(lr, eps=0.25, use_clipping=False, **OPTAX_BETAS), oracle.adopt,
             BETAS | {"epsilon": 0.25, "clipped": False}, epsilon=0.25, clipped=False, **BETAS),
        defaults("adopt", contrib.adopt, oracle.adopt, beta1=0.9, beta2=0.9999, epsilon=1e-6),
    ]  # fmt: skip


def ftrls() -> list[Row]:
    k = keras.optimizers

    def row(name: str, fields: dict[str, float], **knobs: Any) -> Row:
        options = {KERAS_FTRL[field]: value for field, value in fields.items()}
        return keras_source.case("ftrl", name, lambda: k.Ftrl(**options), oracle.ftrl, fields, **knobs)

    strong = {"l1": 0.25, "l2": 0.125, "l2_shrinkage": 0.0625, "beta": 0.0625, "initial_accumulator": 0.03125}
    return [
        row("keras", {"learning_rate_power": -0.5, "initial_accumulator": 0.0625}, initial=0.0625),
        row("keras_l1", {"l1": 10.0}, initial=0.1, l1=10.0, note="l1 holds some parameters at exactly 0"),
        row("keras_all", strong, initial=0.03125, l1=0.25, l2=0.125, shrinkage=0.0625, beta=0.0625),
        keras_source.case("ftrl", "keras_defaults", k.Ftrl, oracle.ftrl, {}, own_rate=1e-3, initial=0.1),
    ]  # fmt: skip


KERAS_FTRL = {
    "learning_rate_power": "learning_rate_power",
    "initial_accumulator": "initial_accumulator_value",
    "l1": "l1_regularization_strength",
    "l2": "l2_regularization_strength",
    "l2_shrinkage": "l2_shrinkage_regularization_strength",
    "beta": "beta",
}


def schedule_free() -> list[Row]:
    plain = {"beta1": 0.75, "weight_lr_power": 1.5, "weight_decay": 0.125}
    adam = plain | {"beta2": 0.95, "epsilon": EPSILON}
    optax_plain = {"b1": 0.75, "weight_lr_power": 1.5, "weight_decay": 0.125}
    return [
        free("schedule_free_sgd", "optax", lambda lr: contrib.schedule_free_sgd(lr, **optax_plain), plain),
        free("schedule_free_sgd", "optax_default_power", contrib.schedule_free_sgd, {}),
        free("schedule_free_sgd", "optax_defaults", contrib.schedule_free_sgd, {"learning_rate": RATE}),
        free("schedule_free_adamw", "optax",
             lambda lr: contrib.schedule_free_adamw(lr, b2=0.95, eps=EPSILON, **optax_plain), adam),
        free("schedule_free_adamw", "optax_default_power", contrib.schedule_free_adamw, {}, beta2=0.999,
             epsilon=1e-8),
        free("schedule_free_adamw", "optax_defaults", contrib.schedule_free_adamw, {"learning_rate": RATE},
             beta2=0.999, epsilon=1e-8),
    ]  # fmt: skip


def free(file: str, name: str, make: Callable[[float], Any], fields: dict[str, float], **more: float) -> Row:
    """Both points: x after each step, and y before it, which optax keeps."""
    own = fields.get("learning_rate")
    # Backwards, so that the largest rate so far rises.
    rates = inputs.LEARNING_RATES[::-1] if own is None else [own] * inputs.STEPS
    knobs = {"beta1": 0.9, "weight_lr_power": 2.0, **fields, **more}
    knobs["power"] = knobs.pop("weight_lr_power")
    knobs.pop("learning_rate", None)

    def run() -> dict[str, Any]:
        y = jnp.array(inputs.PARAMETERS, "float64")
        state, xs, ys = make(rates[0]).init(y), [], []
        for values, rate in zip(inputs.gradient_steps(), rates, strict=True):
            ys.append(np.asarray(y).tolist())
            updates, state = make(rate).update(jnp.array(values, "float64"), state, y)
            y = optax.apply_updates(y, updates)
            xs.append(np.asarray(contrib.schedule_free_eval_params(state, y)).tolist())
        return {"parameters": xs, "lookahead": ys}

    def scalars() -> dict[str, Any]:
        points = {"parameters": False, "lookahead": True}
        return {k: by_step(oracle.schedule_free, rates, knobs | {"ahead": a}) for k, a in points.items()}

    given: dict[str, Any] = {"parameters": inputs.PARAMETERS, "gradients": inputs.gradient_steps()}
    if own is None:
        given["learning_rates"] = rates
    spec = optimizer_spec("OPTAX", file, **fields)
    return Row("optimizers", file, name, "optax", spec, given, scalars, run,
               note="gradients are given as taken at the look-ahead points")  # fmt: skip


def rows() -> list[Row]:
    """Every case."""
    return [*radams(), *lions(), *optax_only(), *ftrls(), *schedule_free()]
