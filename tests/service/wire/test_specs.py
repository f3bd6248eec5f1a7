"""Specifications over the wire: every family, every field, there and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve.v1.activation_spec_pb2 import ActivationSpec
from optserve.v1.convention_pb2 import CONVENTION_TORCH, Convention
from optserve.v1.initializer_spec_pb2 import InitializerSpec
from optserve.v1.loss_spec_pb2 import LossReduction, LossSpec
from optserve.v1.network_spec_pb2 import LayerSpec
from optserve.v1.optimizer_spec_pb2 import OptimizerSpec
from optserve.v1.schedule_spec_pb2 import ScheduleSpec
from optserve.v1.session_pb2 import GradientSpec, SessionSpec
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import declarations
from optserve_server.losses.base import Reduction
from optserve_server.spec import session_spec as domain
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.wire.specifications.specs import (
    FAMILIES,
    algorithm_from,
    find_oneof,
    reduction_from,
    session_spec_from,
    session_spec_to,
    write_algorithm,
    write_loss,
)
from tests.service.wire.support import outcome

MESSAGES: list[type[Any]] = [
    OptimizerSpec,
    ScheduleSpec,
    LossSpec,
    ActivationSpec,
    InitializerSpec,
    LayerSpec,
]
ALGORITHMS = [(kind, field.name) for kind in MESSAGES for field in find_oneof(kind.DESCRIPTOR).fields]

# Values that lie in the range of every field of that type and obey what joins two fields.
DOUBLES = st.floats(0.125, 0.875)
WHOLE_NUMBERS = st.integers(1, 5)


def test_messages_oneofs_and_registries_name_the_same_algorithms() -> None:
    for kind in MESSAGES:
        oneof = [field.name for field in find_oneof(kind.DESCRIPTOR).fields]
        assert sorted(oneof) == sorted(FAMILIES[kind.DESCRIPTOR.full_name])


@pytest.mark.parametrize(("kind", "name"), ALGORITHMS, ids=lambda value: getattr(value, "__name__", value))
def test_messages_and_dataclasses_have_the_same_fields(kind: type[Any], name: str) -> None:
    fields = kind.DESCRIPTOR.fields_by_name[name].message_type.fields
    declared = declarations(FAMILIES[kind.DESCRIPTOR.full_name][name])
    assert {field.name for field in fields} == declared.keys()


@pytest.mark.parametrize(
    "kind",
    [
        domain.SessionSpec,
        domain.GradientSpec,
        domain.WeightAverageSpec,
        domain.ParameterGroup,
        ReduceOnPlateauSpec,
        EarlyStoppingSpec,
    ],
)
def test_records_have_the_fields_of_their_messages(kind: type[Any]) -> None:
    file = SessionSpec.DESCRIPTOR.file
    message = file.message_types_by_name[kind.__name__]
    assert {field.name for field in message.fields} == {field.name for field in dataclasses.fields(kind)}


def draw_fields(data: st.DataObject, message: Any) -> Any:
    """``message`` with some of its fields set."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None or field.name == "convention" or not data.draw(st.booleans()):
            continue
        if not field.is_repeated and field.cpp_type != field.CPPTYPE_STRING:
            setattr(message, field.name, data.draw(_values(field)))
    return message


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == field.CPPTYPE_BOOL:
        return st.booleans()
    return DOUBLES if field.cpp_type == field.CPPTYPE_DOUBLE else WHOLE_NUMBERS


REQUIRED_OF_SCHEDULES = {
    "initial_learning_rate", "peak_learning_rate", "max_learning_rate", "value", "decay", "decay_rate",
    "decay_steps", "first_decay_steps", "warmup_steps", "stable_steps", "total_steps", "step_size",
}  # fmt: skip


def complete(message: Any) -> Any:
    """``message`` with what is required where nothing was drawn."""
    kind = type(message).__name__
    if kind == "PiecewiseConstantSpec":
        message.boundaries[:], message.values[:] = [2, 5], [0.5, 0.25, 0.125]
    if kind == "MultiStepDecaySpec":
        message.milestones[:] = [2, 5]
    if kind == "JoinSpec":
        message.boundaries[:] = [3]
        for _ in range(2 - len(message.schedules)):
            message.schedules.add().constant.value = 0.5
    if kind in ("WarmupSpec", "LegacyDecaySpec"):
        message.schedule.piecewise_constant.boundaries.append(2)
        message.schedule.piecewise_constant.values.extend([0.5, 0.25])
    if kind == "CustomSpec":
        message.expression = "abs(y_pred - y_true)**2"
        message.constants.update({"COST": 0.5, "A": -3})
    for field in message.DESCRIPTOR.fields:
        if field.name in REQUIRED_OF_SCHEDULES and not message.HasField(field.name):
            setattr(message, field.name, 0.5 if field.cpp_type == field.CPPTYPE_DOUBLE else 1)
    for name in ("units", "filters", "vocabulary", "dimension", "heads", "key_dim"):
        if name in message.DESCRIPTOR.fields_by_name and not message.HasField(name):
            setattr(message, name, 6)
    for name in ("kernel", "window"):
        if name in message.DESCRIPTOR.fields_by_name:
            getattr(message, name)[:] = [3, 2]
    return message


@pytest.mark.parametrize(("kind", "name"), ALGORITHMS, ids=lambda value: getattr(value, "__name__", value))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_echo_of_an_algorithm_asks_for_the_same(kind: type[Any], name: str, data: st.DataObject) -> None:
    message = kind()
    if hasattr(message, "convention"):
        message.convention = data.draw(st.sampled_from(Convention.values()))
    getattr(message, name).SetInParent()
    complete(draw_fields(data, getattr(message, name)))
    chosen = outcome(lambda: algorithm_from(message))
    if isinstance(chosen, DomainError):
        # Ranges may join fields, such as a step size's ends. Their errors name the message.
        assert (chosen.field or "").startswith(name)
        return
    echo = kind()
    write_algorithm(echo, chosen)
    assert algorithm_from(echo).algorithm == chosen.algorithm
    assert all_set(getattr(echo, name), chosen.algorithm)
    again = kind()
    write_algorithm(again, algorithm_from(echo))
    assert again == echo
    for field, value in getattr(message, name).ListFields():
        # What is within is stated in full as well, so it is more than was sent.
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            assert getattr(getattr(echo, name), field.name) == value


def all_set(message: Any, algorithm: object) -> bool:
    """Whether every field of a resolved algorithm that can be unset is stated, unless its value is None."""
    return all(
        message.HasField(field.name) or getattr(algorithm, field.name) is None
        for field in message.DESCRIPTOR.fields
        if field.has_presence
    )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_echo_of_a_session_asks_for_the_same(data: st.DataObject) -> None:
    message = SessionSpec()
    message.optimizer.convention = data.draw(st.sampled_from(Convention.values()))
    message.optimizer.sgd.SetInParent()
    if data.draw(st.booleans()):
        complete(message.schedule.inverse_time)
    draw_fields(data, message.gradient)
    clip = data.draw(st.sampled_from(["", "by_value", "by_tensor_norm", "by_global_norm"]))
    if clip:
        bound = "max_value" if clip == "by_value" else "max_norm"
        setattr(getattr(message.gradient.clip, clip), bound, data.draw(DOUBLES))
    if data.draw(st.booleans()):
        draw_fields(data, message.weight_average)
        message.weight_average.SetInParent()
    for listener in (message.reduce_on_plateau, message.early_stopping):
        if data.draw(st.booleans()):
            draw_fields(data, listener).SetInParent()
    for index in range(data.draw(st.integers(0, 2))):
        group = message.groups.add(name=f"group {index}", tensors=["*"])
        draw_fields(data, group)
        if data.draw(st.booleans()):
            group.optimizer.adam.beta1 = data.draw(DOUBLES)
    spec = session_spec_from(message)
    echo = session_spec_to(spec)
    assert session_spec_to(session_spec_from(echo)) == echo
    assert unchosen(session_spec_from(echo)) == unchosen(spec)


def unchosen(spec: domain.SessionSpec) -> Any:
    """A specification without the record of which fields were stated."""
    groups = tuple(
        dataclasses.replace(g, optimizer=g.optimizer and dataclasses.replace(g.optimizer, given=frozenset()))
        for g in spec.groups
    )
    return dataclasses.replace(
        spec,
        optimizer=dataclasses.replace(spec.optimizer, given=frozenset()),
        schedule=spec.schedule and dataclasses.replace(spec.schedule, given=frozenset()),
        groups=groups,
    )


def test_unset_means_the_conventions_default_throughout() -> None:
    message = SessionSpec()
    message.optimizer.convention = CONVENTION_TORCH
    message.optimizer.adam.SetInParent()
    message.gradient.clip.by_global_norm.max_norm = 1
    spec = session_spec_from(message)
    assert spec.optimizer.algorithm.epsilon == 1e-8  # type: ignore[attr-defined]
    assert spec.gradient.clip == domain.ClipByGlobalNorm(max_norm=1.0, epsilon=1e-6)
    assert (spec.schedule, spec.weight_average, spec.groups) == (None, None, ())
    assert spec.gradient.non_finite is domain.NonFinitePolicy.REJECT


def wrong(**fields: Any) -> SessionSpec:
    """A momentum session in which some paths are set to something."""
    message = SessionSpec()
    message.optimizer.momentum.SetInParent()
    for path, value in fields.items():
        *parents, last = path.split("__")
        at: Any = message
        for parent in parents:
            at = getattr(at, parent)
        setattr(at, last, value)
    return message


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (SessionSpec(), "FIELD_REQUIRED", "optimizer"),
        (SessionSpec(optimizer=OptimizerSpec()), "FIELD_REQUIRED", "optimizer"),
        (wrong(optimizer__convention=99), "UNSUPPORTED_VALUE", "optimizer.convention"),
        (wrong(optimizer__momentum__form=99), "UNSUPPORTED_VALUE", "optimizer.momentum.form"),
        (wrong(optimizer__momentum__momentum=1.5), "OUT_OF_RANGE", "optimizer.momentum.momentum"),
        (wrong(optimizer__momentum__momentum=float("nan")), "OUT_OF_RANGE", "optimizer.momentum.momentum"),
        (wrong(gradient__non_finite=9), "UNSUPPORTED_VALUE", "gradient.non_finite"),
        (wrong(gradient__accumulation_steps=0), "OUT_OF_RANGE", "gradient.accumulation_steps"),
        (wrong(gradient__clip__by_value__min_value=1), "FIELD_REQUIRED", "gradient.clip.by_value.max_value"),
        (wrong(gradient__clip__by_global_norm__max_norm=0),
         "OUT_OF_RANGE", "gradient.clip.by_global_norm.max_norm"),
        (wrong(weight_average__decay=1), "OUT_OF_RANGE", "weight_average.decay"),
        (wrong(schedule__convention=1), "FIELD_REQUIRED", "schedule"),
        (wrong(schedule__exponential__decay_rate=1),
         "FIELD_REQUIRED", "schedule.exponential.initial_learning_rate"),
        (
            SessionSpec(optimizer=wrong().optimizer, gradient=GradientSpec(), groups=[{"tensors": ["w"]}]),
            "FIELD_REQUIRED",
            "groups[0].name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_path(message: SessionSpec, reason: str, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        session_spec_from(message)
    assert (caught.value.reason, caught.value.field) == (Reason(reason), field)


def test_a_rate_beside_a_schedule_is_refused_and_never_echoed() -> None:
    message = wrong(optimizer__momentum__learning_rate=0.5)
    complete(message.schedule.exponential)
    with pytest.raises(DomainError) as caught:
        session_spec_from(message)
    assert caught.value.reason is Reason.CONFLICTING_FIELDS
    assert caught.value.field == "optimizer.momentum.learning_rate"
    message.optimizer.momentum.ClearField("learning_rate")
    echo = session_spec_to(session_spec_from(message))
    assert not echo.optimizer.momentum.HasField("learning_rate")
    assert echo.optimizer.momentum.HasField("momentum")


@pytest.mark.parametrize("number", LossReduction.values())
def test_a_loss_states_its_reduction(number: Any) -> None:
    message = LossSpec(reduction=number)
    message.mean_squared_error.SetInParent()
    reduction = reduction_from(message)
    echo = LossSpec()
    write_loss(echo, algorithm_from(message), reduction)
    assert echo.reduction == (number or LossReduction.Value("LOSS_REDUCTION_SUM_OVER_BATCH_SIZE"))
    assert reduction_from(echo) is reduction is Reduction[LossReduction.Name(echo.reduction)[15:]]


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(DomainError) as caught:
        reduction_from(LossSpec(reduction=LossReduction.ValueType(9)))
    assert (caught.value.reason, caught.value.field) == (Reason.UNSUPPORTED_VALUE, "reduction")
