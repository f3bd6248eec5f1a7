"""Rules that see matrices or a whole group: Adafactor, Muon, Prodigy.

torch.optim.Muon iterates in bfloat16; here that cast is taken out, which leaves its own
arithmetic in float64.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch
from optax import contrib

from tests.conformance import inputs
from tests.conformance.corpus import EXACT, FRAMEWORK_FLOAT32
from tests.conformance.oracle import matrices, optimizers
from tests.conformance.oracle.matrices import each
from tests.conformance.sources.row import Row, optimizer_spec, underscore

WIDE = [[1.5, -1.25, 2.0], [-0.875, 0.75, 1.25]]
TALL = [[1.5, -1.25], [2.0, -0.875], [0.75, 1.25]]
VECTOR = inputs.PARAMETERS
Make = Callable[[Any, float], Any]
"""An optimizer of torch or Keras over a parameter, at a rate."""


IN_FLOAT32 = {("keras", "adafactor"): 1, ("keras", "muon"): 2, ("optax", "adafactor"): 1}
"""The dimensions from which on a framework keeps a number of a tensor's step in float32."""

ONE_PRECISION = {
    "keras": "Keras on JAX takes means and norms in float32",
    "optax": "optax keeps the decay in float32",
}

BEYOND = 2.0**66
"""The square of what is as large as that overflows float32."""


def gradients(start: Any, factor: float = 1.0) -> list[Any]:
    shape = np.shape(start)
    steps = inputs.gradient_steps(size=int(np.prod(shape)))
    return [np.reshape([factor * x for x in step], shape).tolist() for step in steps]


def on_torch(make: Make, start: Any, steps: Sequence[tuple[Any, float]]) -> list[Any]:
    parameter = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer, path = make([parameter], steps[0][1]), []
    with mock.patch.object(torch.Tensor, "bfloat16", lambda tensor: tensor.clone()):
        for gradient, rate in steps:
            optimizer.param_groups[0]["lr"] = rate
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            path.append(parameter.detach().tolist())
    return path


def on_keras(make: Make, start: Any, steps: Sequence[tuple[Any, float]]) -> list[Any]:
    variable = keras.Variable(start, dtype="float64")
    optimizer, path = make([variable], steps[0][1]), []
    optimizer.build([variable])
    for gradient, rate in steps:
        optimizer.learning_rate = rate
        optimizer.apply([jnp.array(gradient, "float64")], [variable])
        path.append(np.asarray(variable.value).tolist())
    return path


def on_optax(make: Make, start: Any, steps: Sequence[tuple[Any, float]]) -> list[Any]:
    parameters, path = jnp.array(start, "float64"), []
    state = make(None, steps[0][1]).init(parameters)
    for gradient, rate in steps:
        updates, state = make(None, rate).update(jnp.array(gradient, "float64"), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        path.append(np.asarray(parameters).tolist())
    return path


RUNNERS = {"torch": on_torch, "keras": on_keras, "optax": on_optax}


def case(
    name: str, label: str, source: str, start: Any, make: Make, oracle: Callable[..., list[Any]],
    fields: dict[str, Any], own_rate: float | None = None, faster: float = 1.0, steeper: float = 1.0,
    note: str = "",
    **knobs: Any,
) -> Row:  # fmt: skip
    rates = [faster * rate for rate in inputs.LEARNING_RATES]
    if own_rate is not None:
        rates = [own_rate] * inputs.STEPS
    steps = list(zip(gradients(start, steeper), rates, strict=True))
    given: dict[str, Any] = {"parameters": start, "gradients": [g for g, _ in steps]}
    if own_rate is None:
        given["learning_rates"] = rates
    single = np.ndim(start) >= IN_FLOAT32.get((source, name), 99)
    if single:
        note = note or ONE_PRECISION[source]
    return Row(
        "optimizers", name, label, source, optimizer_spec(source.upper(), name, **fields), given,
        lambda: {"parameters": oracle(start, steps, **knobs)},
        lambda: {"parameters": RUNNERS[source](make, start, steps)}, note=note,
        tolerance=FRAMEWORK_FLOAT32 if single else EXACT,
    )  # fmt: skip


def rows() -> list[Row]:
    return [*muons(), *adafactors(), *prodigies(), largest_steps()]


def largest_steps() -> Row:
    """Rprop at its largest step, on parameters that stay large beside it."""
    bounds = {"eta_minus": 0.5, "eta_plus": 1.2, "smallest": 1e-6, "largest": 50.0}
    return case(
        "rprop", "torch_default_largest", "torch", [1024 * x for x in VECTOR],
        lambda p, lr: torch.optim.Rprop(p, lr=60.0),
        lambda start, steps: by_element(optimizers.rprop, steps, start, initial=60.0, **bounds),
        {"learning_rate": 60.0}, own_rate=60.0,
    )  # fmt: skip


def muons() -> list[Row]:
    muon = torch.optim.Muon
    cast = "torch.optim.Muon without its cast to bfloat16"
    fields = {"momentum": 0.8, "weight_decay": 0.2, "iterations": 3, "epsilon": 2.0}
    knobs = {"mu": 0.8, "weight_decay": 0.2, "iterations": 3, "epsilon": 2.0}
    given = {"momentum": 0.8, "weight_decay": 0.2, "ns_steps": 3, "eps": 2.0}
    usual = {"mu": 0.95, "weight_decay": 0.1, "iterations": 5, "epsilon": 1e-7}
    adam = {"weight_decay": 0.2, "adam_learning_rate_factor": 0.5, "adam_beta1": 0.8,
            "adam_beta2": 0.95, "adam_epsilon": 0.01}  # fmt: skip
    return [
        case("muon", "torch", "torch", WIDE, lambda p, lr: muon(p, lr=lr, **given), matrices.muon, fields,
             nesterov=True, note=cast, **knobs),
        case("muon", "torch_match_rms", "torch", TALL,
             lambda p, lr: muon(p, lr=lr, adjust_lr_fn="match_rms_adamw", **given), matrices.muon,
             fields | {"rms_rate": 0.2}, nesterov=True, rms_rate=0.2, note=cast, **knobs),
        case("muon", "torch_tall", "torch", TALL, lambda p, lr: muon(p, lr=lr, nesterov=False, **given),
             matrices.muon, fields | {"nesterov": False}, nesterov=False, note=cast, **knobs),
        case("muon", "torch_steep", "torch", WIDE, lambda p, lr: muon(p, lr=lr), matrices.muon, {},
             steeper=BEYOND, nesterov=True, note="the sum of the gradients' squares overflows float32",
             **usual),
        case("muon", "torch_defaults", "torch", WIDE, lambda p, lr: muon(p), matrices.muon, {},
             own_rate=0.001, nesterov=True, note=cast, **usual),
        case("muon", "torch_adamw", "torch", VECTOR, half_adamw, adamw, adam,
             note="what is no matrix goes by AdamW, here at half the rate and the same decay"),
        case("muon", "torch_adamw_defaults", "torch", VECTOR,
             lambda p, lr: torch.optim.AdamW(p, lr=0.001, weight_decay=0.1), adamw_defaults, {},
             own_rate=0.001, note="what is no matrix goes by AdamW"),
        case("muon", "optax_adamw_root", "optax", VECTOR,
             lambda p, lr: contrib.muon(lr, adam_b1=0.8, adam_b2=0.95, eps=0.01, adam_eps_root=0.02,
                                        nesterov=False),
             adam_root, {"nesterov": False, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 0.01,
                         "adam_epsilon_root": 0.02},
             note="what is no matrix goes by AdamW"),
        *keras_muons(),
        *optax_muons(),
    ]  # fmt: skip


def keras_muons() -> list[Row]:
    k = keras.optimizers.Muon
    fields = {"momentum": 0.8, "weight_decay": 0.2}
    knobs = {"mu": 0.8, "weight_decay": 0.2, "iterations": 3, "epsilon": 1e-7, "form": "KERAS"}
    usual = {"mu": 0.95, "weight_decay": 0.004, "iterations": 5, "epsilon": 1e-7, "form": "KERAS"}
    folded = {"placement": "OUTSIDE", "correction": "FOLDED"}
    adam = {"adam_beta1": 0.8, "adam_beta2": 0.95}
    adam_knobs = {"beta1": 0.8, "beta2": 0.95, "epsilon": 0.01, "weight_decay": 0.2}
    adam_usual = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7, "weight_decay": 0.004}

    def case_of(name: str, start: Any, make: Make, oracle: Callable[..., list[Any]],
                fields: dict[str, Any], **how: Any) -> Row:  # fmt: skip
        return case("muon", name, "keras", start, make, oracle, fields, **how)

    def fold_adamw(start: list[float], steps: Any) -> list[list[float]]:
        return by_element(optimizers.adam, steps, start, **folded, **adam_knobs)

    return [
        case_of("keras", WIDE, lambda p, lr: k(lr, ns_steps=3, rms_rate=0.5, **fields), matrices.muon,
                fields | {"iterations": 3, "rms_rate": 0.5}, nesterov=True, rms_rate=0.5, **knobs),
        case_of("keras_tall", TALL,
                lambda p, lr: k(lr, ns_steps=3, rms_rate=None, nesterov=False, **fields), matrices.muon,
                fields | {"iterations": 3, "rms_rate": 0.0, "nesterov": False}, nesterov=False, **knobs),
        case_of("keras_defaults", WIDE, lambda p, lr: k(), matrices.muon, {}, own_rate=0.001, nesterov=True,
                rms_rate=0.2, **usual),
        case_of("keras_slight", WIDE, lambda p, lr: k(lr), matrices.muon, {}, steeper=2.0**-24,
                nesterov=True, rms_rate=0.2, note="gradients beside which the epsilon counts", **usual),
        case_of("keras_adamw", VECTOR,
                lambda p, lr: k(lr, epsilon=0.01, adam_weight_decay=0.2, **underscore(adam)), fold_adamw,
                adam | {"adam_epsilon": 0.01, "weight_decay": 0.2}),
        case_of("keras_adamw_defaults", VECTOR, lambda p, lr: k(),
                lambda start, steps: by_element(optimizers.adam, steps, start, **folded, **adam_usual), {},
                own_rate=0.001),
    ]  # fmt: skip


def optax_muons() -> list[Row]:
    fields = {"momentum": 0.8, "weight_decay": 0.2, "iterations": 3, "epsilon": 2.0}
    given = {"beta": 0.8, "weight_decay": 0.2, "ns_steps": 3, "eps": 2.0}
    knobs = {"mu": 0.8, "weight_decay": 0.2, "iterations": 3, "epsilon": 2.0, "form": "OPTAX"}
    usual = {"mu": 0.95, "weight_decay": 0.0, "iterations": 5, "epsilon": 1e-8, "form": "OPTAX"}
    rate = {"learning_rate": 0.015}
    ahead = {"form": "CONSTANT", "psi": 0.0, "beta1": 0.8, "beta2": 0.95, "epsilon": 0.01}
    adam_usual = {"form": "CONSTANT", "psi": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

    def case_of(name: str, start: Any, make: Make, oracle: Callable[..., list[Any]],
                fields: dict[str, Any], **how: Any) -> Row:  # fmt: skip
        return case("muon", name, "optax", start, make, oracle, fields, **how)

    def half_nadam(start: list[float], steps: Any) -> list[list[float]]:
        return by_element(optimizers.nadam, [(g, lr / 2) for g, lr in steps], start, **ahead)

    return [
        case_of("optax", WIDE, lambda p, lr: contrib.muon(lr, **given), matrices.muon, fields, nesterov=True,
                **knobs),
        case_of("optax_tall", TALL, lambda p, lr: contrib.muon(lr, nesterov=False, **given), matrices.muon,
                fields | {"nesterov": False}, nesterov=False, **knobs),
        case_of("optax_consistent_rms", WIDE, lambda p, lr: contrib.muon(lr, consistent_rms=0.5, **given),
                matrices.muon, fields | {"rms_rate": 0.5}, nesterov=True, rms_rate=0.5, **knobs),
        case_of("optax_defaults", WIDE, lambda p, lr: contrib.muon(lr), matrices.muon, rate, own_rate=0.015,
                nesterov=True, **usual),
        case_of("optax_slight", WIDE, lambda p, lr: contrib.muon(lr), matrices.muon, {}, steeper=2.0**-28,
                nesterov=True, note="gradients beside which the epsilon counts", **usual),
        case_of("optax_adamw", VECTOR,
                lambda p, lr: contrib.muon(lr, adam_b1=0.8, adam_b2=0.95, eps=0.01,
                                           adam_learning_rate=lr / 2), half_nadam,
                {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 0.01,
                 "adam_learning_rate_factor": 0.5}),
        case_of("optax_adamw_defaults", VECTOR, lambda p, lr: contrib.muon(lr),
                lambda start, steps: by_element(optimizers.nadam, steps, start, **adam_usual), rate,
                own_rate=0.015),
    ]  # fmt: skip


class half_adamw(torch.optim.AdamW):
    """AdamW whose rate is halved at every step, its decay doubled."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, betas=(0.8, 0.95), eps=0.01, weight_decay=0.4)

    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["lr"] *= 0.5
        return super().step(closure)


def by_element(
    scalar: Callable[..., list[float]], steps: Any, start: list[float], **knobs: Any
) -> list[list[float]]:
    taken = list(steps)
    columns = [scalar(p, [(g[i], lr) for g, lr in taken], **knobs) for i, p in enumerate(start)]
    return [list(row) for row in zip(*columns, strict=True)]


def adamw(start: list[float], steps: Any) -> list[list[float]]:
    halved = [(g, lr / 2) for g, lr in steps]
    return by_element(optimizers.adam, halved, start, beta1=0.8, beta2=0.95, epsilon=0.01,
                      placement="OUTSIDE", correction="HATTED", weight_decay=0.4)  # fmt: skip


def adamw_defaults(start: list[float], steps: Any) -> list[list[float]]:
    return by_element(optimizers.adam, steps, start, beta1=0.9, beta2=0.999, epsilon=1e-8,
                      placement="OUTSIDE", correction="HATTED", weight_decay=0.1)  # fmt: skip


def adam_root(start: list[float], steps: Any) -> list[list[float]]:
    return by_element(optimizers.adam, steps, start, beta1=0.8, beta2=0.95, epsilon=0.01,
                      epsilon_root=0.02, placement="OUTSIDE", correction="HATTED")  # fmt: skip


def adafactors() -> list[Row]:
    k, t = keras.optimizers.Adafactor, torch.optim.Adafactor
    fields = {"beta2_decay": -0.7, "epsilon1": 0.01, "epsilon2": 1.75, "clip_threshold": 0.5}
    knobs = {"beta2_decay": -0.7, "epsilon1": 0.01, "epsilon2": 1.75, "threshold": 0.5}
    usual = {"beta2_decay": -0.8, "epsilon2": 1e-3, "threshold": 1.0}
    least = float(np.finfo(np.float64).eps)

    def keras_knobs(p: Any, lr: float) -> Any:
        return k(learning_rate=lr, **underscore(fields))

    def torch_knobs(p: Any, lr: float) -> Any:
        return t(p, lr=lr, beta2_decay=-0.7, eps=(0.01, 1.75), d=1.25)

    return [
        *(case("adafactor", f"keras_{label}", "keras", start, keras_knobs, matrices.adafactor, fields,
               floored=False, **knobs) for label, start in SHAPES.items()),
        *(case("adafactor", f"torch_{label}", "torch", start, torch_knobs, matrices.adafactor,
               fields | {"clip_threshold": 1.25}, floored=True, **(knobs | {"threshold": 1.25}))
          for label, start in SHAPES.items()),
        *(case("adafactor", f"torch_large_{label}", "torch", each(BEYOND.__mul__, start),
               lambda p, lr: t(p, lr=lr), matrices.adafactor, {}, epsilon1=least, floored=True,
               note="the sum of the parameters' squares overflows float32", **usual)
          for label, start in SHAPES.items()),
        *(case("adafactor", f"keras_defaults_{label}", "keras", start, lambda p, lr: k(),
               matrices.adafactor, {}, own_rate=0.001, epsilon1=1e-30, floored=False, **usual)
          for label, start in SHAPES.items()),
        *(case("adafactor", f"torch_defaults_{label}", "torch", start, lambda p, lr: t(p),
               matrices.adafactor, {}, own_rate=0.01, epsilon1=least, floored=True, **usual)
          for label, start in SHAPES.items()),
        case("adafactor", "keras_deep", "keras", DEEP, keras_knobs, flatten, fields, floored=False,
             factored=False, note="averages over the last dimensions, one of extent 1, leave nothing out",
             **knobs),
        case("adafactor", "keras_fast", "keras", VECTOR, lambda p, lr: k(lr, clip_threshold=0.125),
             matrices.adafactor, {"clip_threshold": 0.125, "relative_step": True}, faster=16.0,
             epsilon1=1e-30, floored=False, **(usual | {"threshold": 0.125})),
        *optax_adafactors(),
    ]  # fmt: skip


def optax_adafactors() -> list[Row]:
    usual = {"beta2_decay": -0.8, "epsilon1": 1e-30, "epsilon2": 1e-3, "threshold": 1.0,
             "floored": False, "relative": False}  # fmt: skip
    knobs = usual | {"beta2_decay": -0.7, "epsilon1": 0.01, "threshold": 1.25}
    fields = {"beta2_decay": -0.7, "epsilon1": 0.01, "clip_threshold": 1.25}
    given = {"decay_rate": 0.7, "eps": 0.01, "clipping_threshold": 1.25}

    def case_of(name: str, start: Any, least: int, oracle: Callable[..., list[Any]], **how: Any) -> Row:
        def make(p: Any, lr: float) -> Any:
            return optax.adafactor(lr, min_dim_size_to_factor=least, **given)

        stated = {"min_dim_size_to_factor": least, "relative_step": False, "factor_largest": True}
        return case("adafactor", name, "optax", start, make, oracle, fields | stated, **how, **knobs)

    return [
        case_of("optax_matrix", WIDE, 2, matrices.adafactor),
        case_of("optax_small", TALL, 3, matrices.adafactor, factored=False),
        case_of("optax_largest", DEEP, 2, flatten),
        case("adafactor", "optax_fast", "optax", VECTOR,
             lambda p, lr: optax.adafactor(lr, clipping_threshold=0.125), matrices.adafactor,
             {"clip_threshold": 0.125, "relative_step": False}, faster=16.0,
             **(usual | {"threshold": 0.125})),
        *(case("adafactor", f"optax_defaults_{label}", "optax", start, lambda p, lr: optax.adafactor(lr),
               matrices.adafactor, {"learning_rate": 0.015}, own_rate=0.015, factored=False, **usual)
          for label, start in SHAPES.items()),
    ]  # fmt: skip


def flatten(start: Any, steps: Any, **how: Any) -> list[Any]:
    """Without the dimension in the middle, whose extent is 1."""
    path = matrices.adafactor(without_middle(start), [(without_middle(g), lr) for g, lr in steps], **how)
    return [[[row] for row in p] for p in path]


def without_middle(x: Any) -> Any:
    return [row for [row] in x]


DEEP = [[row] for row in TALL]
SHAPES = {"matrix": WIDE, "vector": VECTOR}


def prodigies() -> list[Row]:
    make = optax.contrib.prodigy
    fields = {"beta1": 0.8, "beta2": 0.95, "beta3": 0.9, "epsilon": 0.01, "initial_estimate": 0.02,
              "estimate_coefficient": 2.0, "weight_decay": 0.1}  # fmt: skip
    knobs = {"beta1": 0.8, "beta2": 0.95, "beta3": 0.9, "epsilon": 0.01, "first": 0.02,
             "coefficient": 2.0, "weight_decay": 0.1}  # fmt: skip
    given = {"betas": (0.8, 0.95), "beta3": 0.9, "eps": 0.01, "estim_lr0": 0.02, "estim_lr_coef": 2.0,
             "weight_decay": 0.1}  # fmt: skip
    usual = {"beta1": 0.9, "beta2": 0.999, "beta3": 0.999**0.5, "epsilon": 1e-8, "first": 1e-6,
             "coefficient": 1.0, "weight_decay": 0.0}  # fmt: skip
    return [
        case("prodigy", "optax", "optax", VECTOR, lambda p, lr: make(lr, **given), matrices.prodigy, fields,
             faster=32.0, safeguard=False, **knobs),
        case("prodigy", "optax_safeguard", "optax", VECTOR,
             lambda p, lr: make(lr, safeguard_warmup=True, **given), matrices.prodigy,
             fields | {"safeguard_warmup": True}, faster=32.0, safeguard=True, **knobs),
        case("prodigy", "optax_defaults", "optax", VECTOR, lambda p, lr: make(), matrices.prodigy, {},
             own_rate=1.0, safeguard=False, **usual),
    ]  # fmt: skip
