"""Names that `torch.optim` uses for rules, hyperparameters and state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from optserve import optimizers
from optserve.specs.base import ALIASES
from optserve.specs.optimizers import Optimizer

L2 = "l2"
"""Name of the hyperparameter that adds a multiple of the parameter to the gradient."""

STEP = "step"
"""Key of the number of steps in the state of a parameter."""

MOMENTUM_PRODUCT = "mu_product", "momentum_product"
"""Names of NAdam's product in PyTorch and in the session."""

_PAIRS = {**ALIASES, "etas": ("eta_minus", "eta_plus"), "step_sizes": ("step_size_min", "step_size_max")}
_MOMENTS = {STEP: "", "exp_avg": "m", "exp_avg_sq": "v"}


class TorchRule(NamedTuple):
    """A rule as `torch.optim` has it.

    Attributes:
        optimizer: the class of `torch.optim`; None if PyTorch has no such rule.
        slots: key of the state of a parameter, and the session's array that holds it.
        fixed: arguments of the class that select the rule.
        initial: hyperparameters that matter only when a session is created.
    """

    optimizer: Any
    slots: Mapping[str, str]
    fixed: Mapping[str, object] = {}
    initial: tuple[str, ...] = ()

    def make_defaults(self, rule: Optimizer, given: Mapping[str, object]) -> dict[str, Any]:
        """Returns the defaults of parameter groups.

        Args:
            rule: the rule, whose set fields take the place of PyTorch's defaults.
            given: further arguments of the class of `torch.optim`, such as ``foreach``; None for its default.
        """
        values = {key: value for key, value in given.items() if value is not None}
        if self.optimizer is None:
            own = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule) if "float" in str(f.type)}
            base = {"lr": own.pop("learning_rate"), "weight_decay": 0.0, "maximize": False}
            return {**base, **own, **values}
        for key in self.optimizer([torch.zeros(1, 1)], **self.fixed).defaults:
            found = [
                value for name in _fields_of(key, rule) if (value := getattr(rule, name, None)) is not None
            ]
            if found:
                values.setdefault(key, tuple(found) if len(found) > 1 else found[0])
        return dict(self.optimizer([torch.zeros(1, 1)], **{**self.fixed, **values}).defaults)


def list_values(rule: Optimizer, group: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values of the hyperparameters of a parameter group, by the session's names."""
    values: dict[str, float] = {}
    for key, value in group.items():
        for name, number in zip(
            _fields_of(key, rule), value if isinstance(value, tuple) else [value], strict=False
        ):
            if number is not None and not isinstance(number, bool):
                values[name] = float(number)
    return values


def find_torch_rule(rule: Optimizer) -> TorchRule:
    """Returns what PyTorch calls the parts of a rule; the session's own names if it has no such rule."""
    return TORCH_RULES.get(type(rule), TorchRule(None, {STEP: ""}))


def _fields_of(key: str, rule: Optimizer) -> list[str]:
    """The hyperparameters of a session that a key of a parameter group means."""
    names = {f.name for f in dataclasses.fields(rule)}
    if key == "weight_decay" and key not in names:
        return [L2]
    return [name for name in (key, *_PAIRS.get(key, ())) if name in names]


TORCH_RULES: Mapping[type[Optimizer], TorchRule] = {
    optimizers.SGD: TorchRule(torch.optim.SGD, {}),
    optimizers.Momentum: TorchRule(torch.optim.SGD, {"momentum_buffer": "buffer"}),
    optimizers.Nesterov: TorchRule(
        torch.optim.SGD, {"momentum_buffer": "buffer"}, {"nesterov": True, "momentum": 0.9}
    ),
    optimizers.Adagrad: TorchRule(
        torch.optim.Adagrad, {STEP: "", "sum": "accumulator"}, initial=("initial_accumulator",)
    ),
    optimizers.RMSprop: TorchRule(
        torch.optim.RMSprop, {STEP: "", "square_avg": "v", "grad_avg": "mean", "momentum_buffer": "buffer"}
    ),
    optimizers.Adadelta: TorchRule(
        torch.optim.Adadelta, {STEP: "", "square_avg": "v", "acc_delta": "step_squares"}
    ),
    optimizers.Adam: TorchRule(torch.optim.Adam, _MOMENTS),
    optimizers.AMSGrad: TorchRule(
        torch.optim.Adam, {**_MOMENTS, "max_exp_avg_sq": "v_max"}, {"amsgrad": True}
    ),
    optimizers.AdamW: TorchRule(torch.optim.AdamW, _MOMENTS),
    optimizers.Adamax: TorchRule(torch.optim.Adamax, {STEP: "", "exp_avg": "m", "exp_inf": "u"}),
    optimizers.NAdam: TorchRule(torch.optim.NAdam, _MOMENTS),
    optimizers.RAdam: TorchRule(torch.optim.RAdam, _MOMENTS),
    optimizers.Rprop: TorchRule(
        torch.optim.Rprop,
        {STEP: "", "prev": "previous_sign", "step_size": "step_size"},
        initial=("learning_rate",),
    ),
}
"""What is specific to each rule of `torch.optim`."""
