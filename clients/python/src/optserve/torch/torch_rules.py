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

DECOUPLED = "decoupled_weight_decay"
"""Name of the hyperparameter that subtracts a multiple of the parameter, under rules without such a field."""

STEP = "step"
"""Key of the number of steps in the state of a parameter."""

MOMENTUM_PRODUCT = "mu_product", "momentum_product"
"""Names of NAdam's product in PyTorch and in the session."""

_PAIRS = {
    **ALIASES,
    "d": ("clip_threshold",),
    "eps": ("epsilon", "epsilon1", "epsilon2"),
    "etas": ("eta_minus", "eta_plus"),
    "ns_steps": ("iterations",),
    "step_sizes": ("step_size_min", "step_size_max"),
}
_ADJUST, _MATCH_RMS = "adjust_lr_fn", {"original": 0.0, "match_rms_adamw": 0.2}
"""Key of Muon's groups, and what its values mean for ``rms_rate``; None leaves the rule's own."""

_COEFFICIENTS = "ns_coefficients"
_MOMENTS = {STEP: "", "exp_avg": "m", "exp_avg_sq": "v"}


class TorchRule(NamedTuple):
    """A rule as `torch.optim` has it.

    Attributes:
        optimizer: the class of `torch.optim`; None if PyTorch has no such rule.
        slots: key of the state of a parameter, and the session's array that holds it.
        other_slots: the same for parameters that are no matrices; None if they are treated alike.
        unit_axes: keys whose arrays have an axis of extent 1 in PyTorch that they lack in the session.
        fixed: arguments of the class that select the rule.
        initial: hyperparameters that matter only when a session is created.
    """

    optimizer: Any
    slots: Mapping[str, str]
    fixed: Mapping[str, object] = {}
    initial: tuple[str, ...] = ()
    other_slots: Mapping[str, str] | None = None
    unit_axes: Mapping[str, int] = {}

    def find_slots(self, axes: int) -> Mapping[str, str]:
        """Returns the slots of a parameter with a number of axes."""
        return self.slots if self.other_slots is None or axes == 2 else self.other_slots

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
        for key, default in self.optimizer([torch.zeros(1, 1)], **self.fixed).defaults.items():
            defaults = default if isinstance(default, tuple) else (default,)
            fields = [getattr(rule, name, None) for name in _fields_of(key, rule)]
            if any(value is not None for value in fields):
                pairs = zip(fields, defaults, strict=False)
                found = tuple(other if value is None else value for value, other in pairs)
                values.setdefault(key, found if isinstance(default, tuple) else found[0])
            if key == _ADJUST:
                rate = getattr(rule, "rms_rate", None)
                values.setdefault(key, next((name for name, of in _MATCH_RMS.items() if of == rate), None))
        return dict(self.optimizer([torch.zeros(1, 1)], **{**self.fixed, **values}).defaults)


def list_values(rule: Optimizer, group: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values of the hyperparameters of a parameter group, by the session's names.

    Raises:
        ValueError: a value is one that the server has not.
    """
    kinds = {f.name: str(f.type) for f in dataclasses.fields(rule)}
    values: dict[str, float] = {}
    for key, value in group.items():
        for name, number in zip(
            _fields_of(key, rule), value if isinstance(value, tuple) else [value], strict=False
        ):
            if number is not None:
                kind = kinds.get(name, "float")
                values[name] = (
                    bool(number) if "bool" in kind else int(number) if "int" in kind else float(number)
                )
        if key == _ADJUST and value is not None:
            values["rms_rate"] = _MATCH_RMS[value]
        if key == _COEFFICIENTS and value != (own := torch.optim.Muon([torch.zeros(1, 1)]).defaults[key]):
            raise ValueError(f"{key} must be {own}, which the server has, not {value}")
    return values


def find_torch_rule(rule: Optimizer) -> TorchRule:
    """Returns what PyTorch calls the parts of a rule; the session's own names if it has no such rule."""
    return TORCH_RULES.get(type(rule), TorchRule(None, {STEP: ""}))


def _fields_of(key: str, rule: Optimizer) -> list[str]:
    """The hyperparameters of a session that a key of a parameter group means."""
    names = {f.name for f in dataclasses.fields(rule)}
    if key == "weight_decay" and key not in names:
        return [DECOUPLED if isinstance(rule, optimizers.Adafactor) else L2]
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
    optimizers.Adafactor: TorchRule(
        torch.optim.Adafactor,
        {STEP: "", "row_var": "r", "col_var": "c", "variance": "v"},
        unit_axes={"row_var": -1, "col_var": -2},
    ),
    # PyTorch's has matrices alone, and others have an AdamW beside it.
    optimizers.Muon: TorchRule(torch.optim.Muon, {"momentum_buffer": "m"}, other_slots=_MOMENTS),
    optimizers.Rprop: TorchRule(
        torch.optim.Rprop,
        {STEP: "", "prev": "previous_sign", "step_size": "step_size"},
        initial=("learning_rate",),
    ),
}
"""What is specific to each rule of `torch.optim`."""
