"""Defaults by convention, ranges, and the names that the contract shares with the code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from enum import Enum
from typing import Any, get_args

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from optserve.v1.activation_spec_pb2 import ActivationSpec
from optserve.v1.initializer_spec_pb2 import InitializerSpec
from optserve.v1.loss_spec_pb2 import LossSpec
from optserve.v1.network_spec_pb2 import LayerSpec
from optserve.v1.optimizer_spec_pb2 import OptimizerSpec
from optserve.v1.schedule_spec_pb2 import ScheduleSpec
from optserve_server import activations, complexity, initializers, losses, optimizers, schedules
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen, Convention, NamedNumbers, declarations, field_types
from optserve_server.losses.base import Reduction
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.constant import Constant

FAMILIES: list[tuple[Any, Descriptor]] = [
    (optimizers, OptimizerSpec.DESCRIPTOR),
    (schedules, ScheduleSpec.DESCRIPTOR),
    (losses, LossSpec.DESCRIPTOR),
    (activations, ActivationSpec.DESCRIPTOR),
    (initializers, InitializerSpec.DESCRIPTOR),
    (complexity, LayerSpec.DESCRIPTOR),
]
ALGORITHMS: list[type[Any]] = [cls for family, _ in FAMILIES for cls in family.REGISTRY.values()]

FLAT = Chosen(Constant(value=1.0))
VALID: dict[str, dict[str, object]] = {
    "exponential": {"initial_learning_rate": 0.1, "decay_steps": 10.0, "decay_rate": 0.5},
    "inverse_time": {"initial_learning_rate": 0.1, "decay_steps": 10.0, "decay_rate": 0.5},
    "piecewise_constant": {"boundaries": (1,), "values": (1.0, 0.1)},
    "constant": {"value": 1.0},
    "polynomial": {"initial_learning_rate": 0.1, "decay_steps": 10.0},
    "cosine": {"initial_learning_rate": 0.1, "decay_steps": 10.0},
    "cosine_restarts": {"initial_learning_rate": 0.1, "first_decay_steps": 10.0},
    "one_cycle": {"max_learning_rate": 0.1, "total_steps": 10},
    "step_decay": {"initial_learning_rate": 0.1, "step_size": 10},
    "multi_step_decay": {"initial_learning_rate": 0.1, "milestones": (1, 3)},
    "rsqrt": {"peak_learning_rate": 0.1, "warmup_steps": 10.0},
    "warmup_stable_decay": {
        "peak_learning_rate": 0.1,
        "warmup_steps": 1,
        "stable_steps": 2,
        "decay_steps": 3,
    },
    "warmup": {"schedule": FLAT, "warmup_steps": 3},
    "join": {"schedules": (FLAT, FLAT), "boundaries": (2,)},
    "legacy_decay": {"schedule": FLAT, "decay": 0.5},
    "cyclic": {"base_learning_rate": 0.1, "max_learning_rate": 0.5},
    "expression": {"expression": "0.1*0.95**floor(step/30)"},
    "product": {"schedules": (FLAT, FLAT)},
    "piecewise_interpolation": {"boundaries": (3, 9), "values": (1.0, 0.1, 0.3)},
    "custom": {"expression": "(y_pred - y_true)**2"},
    "maxout": {"group_size": 2},
    "dense": {"units": 1},
    "convolution": {"filters": 1, "kernel": (3, 3)},
    "pooling": {"window": (2, 2)},
    "simple_rnn": {"units": 1},
    "lstm": {"units": 1},
    "gru": {"units": 1},
    "embedding": {"vocabulary": 2, "dimension": 1},
    "multi_head_attention": {"heads": 1, "key_dim": 2},
}
"""What algorithms with required fields are given."""

K, T, X, L = Convention.KERAS, Convention.TORCH, Convention.OPTAX, Convention.LECTURE

# From the signatures of Keras 3.15, torch 2.13 and optax 0.2.8, and from the lecture. Where
# optax asks for a learning rate, the service falls back to that of Keras.
DEFAULTS = [
    ("sgd", K, {"learning_rate": 0.01}),
    ("sgd", T, {"learning_rate": 0.001}),
    ("momentum", K, {"learning_rate": 0.01, "momentum": 0.9, "form": "CLASSICAL"}),
    ("momentum", T, {"learning_rate": 0.001, "dampening": 0.0, "form": "HEAVY_BALL"}),
    ("momentum", X, {"form": "HEAVY_BALL"}),
    ("momentum", L, {"momentum": 0.9, "form": "EMA"}),
    ("nesterov", K, {"form": "KERAS"}),
    ("nesterov", T, {"form": "TORCH"}),
    ("nesterov", X, {"form": "TORCH"}),
    ("nesterov", L, {"form": "LOOKAHEAD_EMA"}),
    ("adagrad", K, {"learning_rate": 0.001, "epsilon": 1e-7}),
    ("adagrad", K, {"epsilon_placement": "INSIDE", "initial_accumulator": 0.1}),
    ("adagrad", T, {"learning_rate": 0.01, "epsilon": 1e-10}),
    ("adagrad", T, {"epsilon_placement": "OUTSIDE", "initial_accumulator": 0.0}),
    ("adagrad", X, {"epsilon": 1e-7, "epsilon_placement": "INSIDE", "initial_accumulator": 0.1}),
    ("adagrad", L, {"epsilon": 0.0, "initial_accumulator": 0.0}),
    ("rmsprop", K, {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7}),
    ("rmsprop", K, {"epsilon_placement": "INSIDE", "momentum": 0.0}),
    ("rmsprop", T, {"learning_rate": 0.01, "rho": 0.99, "epsilon": 1e-8, "epsilon_placement": "OUTSIDE"}),
    ("rmsprop", T, {"momentum_form": "HEAVY_BALL", "centered": False}),
    ("rmsprop", X, {"rho": 0.9, "epsilon": 1e-8}),
    ("rmsprop", X, {"epsilon_placement": "INSIDE", "momentum_form": "CLASSICAL"}),
    ("rmsprop", L, {"rho": 0.9, "epsilon": 0.0}),
    ("adadelta", K, {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7}),
    ("adadelta", T, {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6}),
    ("adadelta", X, {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6}),
    ("adam", K, {"learning_rate": 0.001, "beta1": 0.9, "beta2": 0.999}),
    ("adam", K, {"epsilon": 1e-7, "bias_correction": "FOLDED"}),
    ("adam", T, {"learning_rate": 0.001, "epsilon": 1e-8, "bias_correction": "HATTED"}),
    ("adam", X, {"epsilon": 1e-8, "bias_correction": "HATTED"}),
    ("adam", L, {"epsilon": 0.0, "bias_correction": "HATTED"}),
    ("amsgrad", K, {"bias_correction": "FOLDED", "maximum": "RAW"}),
    ("amsgrad", T, {"bias_correction": "HATTED", "maximum": "RAW"}),
    ("amsgrad", X, {"bias_correction": "HATTED", "maximum": "CORRECTED"}),
    ("amsgrad", L, {"bias_correction": "NONE", "maximum": "UNCORRECTED", "epsilon": 0.0}),
    ("adamw", K, {"weight_decay": 0.004, "bias_correction": "FOLDED", "epsilon": 1e-7}),
    ("adamw", T, {"weight_decay": 0.01, "bias_correction": "HATTED", "epsilon": 1e-8}),
    ("adamw", X, {"weight_decay": 1e-4}),
    ("nadam", K, {"learning_rate": 0.001, "form": "SCHEDULED", "momentum_decay": 1.0, "epsilon": 1e-7}),
    ("nadam", T, {"learning_rate": 0.002, "form": "SCHEDULED", "momentum_decay": 0.004, "epsilon": 1e-8}),
    ("nadam", X, {"form": "CONSTANT", "epsilon": 1e-8}),
    ("adamax", K, {"learning_rate": 0.001, "epsilon": 1e-7, "form": "DENOMINATOR"}),
    ("adamax", T, {"learning_rate": 0.002, "epsilon": 1e-8, "form": "GRADIENT"}),
    ("adamax", X, {"epsilon": 1e-8, "form": "GRADIENT"}),
    ("rprop", T, {"learning_rate": 0.01, "eta_minus": 0.5, "eta_plus": 1.2}),
    ("rprop", T, {"step_size_min": 1e-6, "step_size_max": 50}),
    ("radam", T, {"learning_rate": 1e-3, "epsilon": 1e-8, "bias_correction": "FOLDED"}),
    ("radam", T, {"threshold": 5.0, "rectified_at_threshold": False}),
    ("radam", X, {"threshold": 5.0, "rectified_at_threshold": True, "bias_correction": "HATTED"}),
    ("lion", K, {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}),
    ("lion", X, {"weight_decay": 1e-3}),
    ("yogi", X, {"epsilon": 1e-3, "initial_accumulator": 1e-6}),
    ("adabelief", X, {"epsilon": 1e-16, "epsilon_root": 1e-16}),
    ("adan", X, {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "epsilon": 1e-8, "epsilon_root": 1e-8}),
    ("adopt", X, {"beta1": 0.9, "beta2": 0.9999, "epsilon": 1e-6, "clipped": True}),
    ("ftrl", K, {"learning_rate": 1e-3, "learning_rate_power": -0.5, "initial_accumulator": 0.1}),
    ("adafactor", K, {"min_dim_size_to_factor": 0, "factor_largest": False, "relative_step": True}),
    ("adafactor", T, {"min_dim_size_to_factor": 0, "factor_largest": False, "relative_step": True}),
    ("adafactor", X, {"min_dim_size_to_factor": 128, "factor_largest": True, "relative_step": False}),
    ("adafactor", X, {"learning_rate": 1.0, "form": "SQUARES"}),
    ("muon", K, {"weight_decay": 0.004, "form": "KERAS", "rms_rate": 0.2, "adam_epsilon": 1e-7}),
    ("muon", T, {"weight_decay": 0.1, "form": "TORCH", "rms_rate": 0.0, "adam_epsilon": 1e-8}),
    ("muon", X, {"weight_decay": 0.0, "form": "OPTAX", "rms_rate": 0.0, "epsilon": 1e-8}),
    ("ftrl", K, {"l1": 0.0, "l2": 0.0, "l2_shrinkage": 0.0, "beta": 0.0}),
    ("schedule_free_sgd", X, {"learning_rate": 1.0, "beta1": 0.9, "weight_lr_power": 2.0}),
    ("schedule_free_adamw", X, {"learning_rate": 0.0025, "beta2": 0.999, "epsilon": 1e-8}),
    # From Flower's strategies.
    ("fed_adagrad", K, {"learning_rate": 0.1, "tau": 1e-9, "beta1": 0.0}),
    ("fed_adam", K, {"learning_rate": 0.1, "tau": 1e-9, "beta1": 0.9, "beta2": 0.99}),
    ("fed_adam", K, {"bias_correction": "NONE"}),
    ("fed_yogi", K, {"learning_rate": 0.01, "tau": 1e-3, "beta1": 0.9, "beta2": 0.99}),
    ("leaky_relu", K, {"negative_slope": 0.3}),
    ("leaky_relu", T, {"negative_slope": 0.01}),
    ("leaky_relu", X, {"negative_slope": 0.01}),
    ("leaky_relu", L, {"negative_slope": 0.2}),
    ("softmax", K, {"axis": -1}),
    ("rrelu", T, {"lower": 1 / 8, "upper": 1 / 3, "training": False}),
    ("elu", K, {"alpha": 1.0}),
    ("elu", T, {"alpha": 1.0}),
    ("elu", X, {"alpha": 1.0}),
    ("celu", K, {"alpha": 1.0}),
    ("celu", T, {"alpha": 1.0}),
    ("celu", X, {"alpha": 1.0}),
    ("gelu", K, {"approximate": False}),
    ("gelu", T, {"approximate": False}),
    ("gelu", X, {"approximate": True}),
    ("softplus", T, {"beta": 1.0}),
    ("log_softmax", K, {"axis": -1}),
    ("maxout", K, {"axis": -1}),
    ("categorical_crossentropy", K, {"from_logits": False, "axis": -1, "label_smoothing": 0.0}),
    ("categorical_crossentropy", T, {"from_logits": True, "axis": 1}),
    ("sparse_categorical_crossentropy", X, {"from_logits": True, "axis": -1}),
    ("piecewise_constant", K, {"boundary_side": "BEFORE"}),
    ("piecewise_constant", T, {"boundary_side": "AFTER"}),
    ("piecewise_constant", X, {"boundary_side": "AFTER"}),
    ("exponential", K, {"staircase": False}),
    ("polynomial", K, {"end_learning_rate": 1e-4, "power": 1.0, "cycle": False}),
    ("polynomial", T, {"end_learning_rate": 0.0, "power": 1.0}),
    ("cosine", K, {"alpha": 0.0, "warmup_steps": 0.0, "periodic": False}),
    ("cosine", T, {"periodic": True}),
    ("cosine", X, {"periodic": False}),
    ("cosine_restarts", K, {"t_mul": 2.0, "m_mul": 1.0, "alpha": 0.0}),
    ("cosine_restarts", T, {"t_mul": 1.0, "alpha": 0.0}),
    ("one_cycle", T, {"pct_start": 0.3, "annealing": "COSINE", "div_factor": 25.0}),
    ("one_cycle", T, {"final_div_factor": 1e4, "three_phase": False}),
    ("one_cycle", T, {"form": "LAST_STEP", "pct_final": 0.0}),
    ("one_cycle", X, {"form": "STEP_COUNT", "pct_final": 0.85}),
    ("cyclic", T, {"step_size_up": 2000.0, "form": "TRIANGULAR", "gamma": 1.0}),
    ("piecewise_interpolation", X, {"annealing": "LINEAR"}),
    ("step_decay", T, {"gamma": 0.1}),
    ("multi_step_decay", T, {"gamma": 0.1}),
    ("normal", K, {"mean": 0.0, "stddev": 0.05}),
    ("truncated_normal", K, {"mean": 0.0, "stddev": 0.05}),
    ("he", K, {"distribution": "TRUNCATED_NORMAL"}),
    ("glorot", K, {"distribution": "UNIFORM"}),
    ("lecun", K, {"distribution": "TRUNCATED_NORMAL"}),
    ("uniform", K, {"minimum": -0.05, "maximum": 0.05}),
    ("variance_scaling", K, {"scale": 1.0, "mode": "IN", "distribution": "TRUNCATED_NORMAL"}),
    ("orthogonal", K, {"gain": 1.0}),
    ("identity", K, {"gain": 1.0}),
    ("convolution", K, {"strides": (1, 1), "dilation": (1, 1), "padding": "VALID", "groups": 1}),
    ("pooling", K, {"strides": (2, 2), "padding": "VALID", "form": "MAX"}),
    ("gru", K, {"reset_after": True, "use_bias": True, "return_sequences": False}),
    ("multi_head_attention", K, {"value_dim": 2, "use_bias": True}),
]  # fmt: skip


DEFAULTS += [
    (name, convention, {"epsilon_root": 0.0})
    for name in ("adam", "adamw", "amsgrad", "nadam", "radam", "yogi", "lamb")
    for convention in Convention
]


def by_name(name: str, fields: Collection[str]) -> type[Any]:
    """The algorithm of that name which has the fields; exponential is a schedule and an activation."""
    (cls,) = [cls for cls in ALGORITHMS if cls.name == name and set(fields) <= set(declarations(cls))]
    return cls


def valid_fields(cls: type[Any]) -> dict[str, object]:
    """What an algorithm with required fields is given."""
    return {k: v for k, v in VALID.get(cls.name, {}).items() if k in declarations(cls)}


def resolve(cls: type[Any], convention: Convention = K, **given: object) -> Any:
    return cls.resolve(valid_fields(cls) | given, convention)


@pytest.mark.parametrize(("name", "convention", "expected"), DEFAULTS)
def test_defaults_are_those_of_the_convention(
    name: str, convention: Convention, expected: dict[str, object]
) -> None:
    algorithm = resolve(by_name(name, expected), convention)
    assert {field: getattr(algorithm, field) for field in expected} == expected


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_every_algorithm_resolves_under_every_convention(cls: type[Any]) -> None:
    for convention in Convention:
        algorithm = resolve(cls, convention)
        given = {name: getattr(algorithm, name) for name in declarations(cls)}
        assert all(cls.resolve(given, other) == algorithm for other in Convention), convention


@pytest.mark.parametrize("cls", [cls for cls in ALGORITHMS if valid_fields(cls)])
def test_required_fields_are_asked_for(cls: type[Any]) -> None:
    for name in valid_fields(cls):
        given = {k: v for k, v in valid_fields(cls).items() if k != name}
        with pytest.raises(DomainError) as caught:
            cls.resolve(given, K)
        assert (caught.value.reason, caught.value.field) == (Reason.FIELD_REQUIRED, name)


def outside(cls: type[Any]) -> Iterator[tuple[str, float]]:
    """For each bound of each float, the nearest number that is rejected, and nan and infinity."""
    for name, d in declarations(cls).items():
        if field_types(cls)[name] is not float:
            continue
        wrong = [math.nan, math.inf, -math.inf]
        wrong += [x for x in (d.gt, d.lt) if x is not None]
        wrong += [] if d.ge is None else [math.nextafter(d.ge, -math.inf)]
        wrong += [] if d.le is None else [math.nextafter(d.le, math.inf)]
        for value in wrong:
            yield name, value


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_number_out_of_range_is_rejected_by_name(cls: type[Any]) -> None:
    for name, value in outside(cls):
        with pytest.raises(DomainError) as caught:
            resolve(cls, **{name: value})
        assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, name), value


def test_numbers_out_of_range_are_found() -> None:
    assert sum(len(list(outside(cls))) for cls in ALGORITHMS) > 900


def test_every_rate_has_a_lower_bound() -> None:
    for cls in optimizers.REGISTRY.values():
        bounds = declarations(cls)["learning_rate"]
        assert bounds.ge == 0 or bounds.gt == 0, cls.name
        assert next(iter(declarations(cls))) == "learning_rate"


@pytest.mark.parametrize(("family", "message"), FAMILIES)
def test_names_are_those_of_the_contract(family: Any, message: Descriptor) -> None:
    (oneof,) = [o for o in message.oneofs if not o.name.startswith("_")]
    assert set(family.REGISTRY) == {field.name for field in oneof.fields}
    for field in oneof.fields:
        cls = family.REGISTRY[field.name]
        assert sorted(field_types(cls)) == sorted(field.message_type.fields_by_name), cls.name
        for sub in field.message_type.fields:
            require_same_type(field_types(cls)[sub.name], sub)


def require_same_type(declared: Any, field: FieldDescriptor) -> None:
    if field.enum_type is not None:
        assert members(field) == [member.name for member in declared]
        assert declared.__name__.lower() == field.enum_type.name.lower()  # AMSGradMaximum, say
        return
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        assert declared == NamedNumbers
        return
    if field.message_type is not None:
        inner = Chosen[Schedule]
        assert declared == (tuple[inner, ...] if field.is_repeated else inner)
        return
    if type(None) in get_args(declared):
        (declared,) = set(get_args(declared)) - {type(None)}
    scalars: dict[int, Any] = {
        field.TYPE_DOUBLE: float,
        field.TYPE_BOOL: bool,
        field.TYPE_INT32: int,
        field.TYPE_INT64: int,
        field.TYPE_STRING: str,
    }
    scalar: Any = scalars[field.type]
    assert declared == (tuple[scalar, ...] if field.is_repeated else scalar)


def members(field: FieldDescriptor) -> list[str]:
    values = field.enum_type.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return [value.name.removeprefix(prefix) for value in values[1:]]


def test_reductions_are_those_of_the_contract() -> None:
    assert members(LossSpec.DESCRIPTOR.fields_by_name["reduction"]) == [member.name for member in Reduction]


def test_enums_carry_their_own_names() -> None:
    for cls in ALGORITHMS:
        for field in dataclasses.fields(cls):
            kind = field_types(cls)[field.name]
            if isinstance(kind, type) and issubclass(kind, Enum):
                assert all(member.name == member.value for member in kind)
