"""Schedules within schedules over the wire."""

from __future__ import annotations

from optserve.v1.convention_pb2 import CONVENTION_KERAS, CONVENTION_TORCH
from optserve.v1.schedule_spec_pb2 import ScheduleSpec
from optserve.v1.session_pb2 import SessionSpec
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention
from optserve_server.schedules.join import Join
from optserve_server.schedules.piecewise_constant import BoundarySide, PiecewiseConstant
from optserve_server.wire.specifications.specs import algorithm_from, session_spec_from, write_algorithm
from tests.service.wire.support import outcome


def make_join() -> ScheduleSpec:
    message = ScheduleSpec(convention=CONVENTION_TORCH)
    message.join.boundaries.append(5)
    first = message.join.schedules.add().piecewise_constant
    first.boundaries.append(2)
    first.values.extend([1.0, 0.5])
    last = message.join.schedules.add(convention=CONVENTION_KERAS)
    last.legacy_decay.decay = 0.5
    last.legacy_decay.schedule.CopyFrom(ScheduleSpec())
    last.legacy_decay.schedule.constant.value = 0.25
    return message


def test_the_convention_is_handed_down() -> None:
    join = algorithm_from(make_join()).algorithm
    assert isinstance(join, Join)
    first, last = join.schedules
    assert isinstance(first.algorithm, PiecewiseConstant)
    assert (first.convention, first.algorithm.boundary_side) == (Convention.TORCH, BoundarySide.AFTER)
    assert last.convention is Convention.KERAS
    assert last.algorithm.nested_schedules[0].rate(0) == 0.25


def test_the_echo_states_what_is_within() -> None:
    echo = ScheduleSpec()
    write_algorithm(echo, algorithm_from(make_join()))
    assert echo.join.schedules[0].convention == CONVENTION_TORCH
    assert echo.join.schedules[0].piecewise_constant.boundary_side
    assert echo.join.schedules[1].legacy_decay.schedule.convention == CONVENTION_KERAS
    assert algorithm_from(echo) == algorithm_from(make_join())


def test_a_session_schedule_does_not_inherit_from_its_optimizer() -> None:
    message = SessionSpec()
    message.optimizer.convention = CONVENTION_TORCH
    message.optimizer.sgd.SetInParent()
    message.schedule.piecewise_constant.boundaries.append(2)
    message.schedule.piecewise_constant.values.extend([1.0, 0.5])
    schedule = session_spec_from(message).schedule
    assert schedule is not None
    assert schedule.convention is Convention.KERAS


def refusal(message: ScheduleSpec) -> tuple[Reason, str | None]:
    error = outcome(lambda: algorithm_from(message))
    assert isinstance(error, DomainError)
    return error.reason, error.field


def test_errors_within_are_told_by_their_place() -> None:
    message = make_join()
    message.join.schedules[1].legacy_decay.schedule.constant.value = -1
    assert refusal(message) == (Reason.OUT_OF_RANGE, "join.schedules[1].legacy_decay.schedule.constant.value")
    message.join.schedules[1].legacy_decay.schedule.Clear()
    assert refusal(message) == (Reason.FIELD_REQUIRED, "join.schedules[1].legacy_decay.schedule")
    message.join.schedules[1].legacy_decay.ClearField("schedule")
    assert refusal(message) == (Reason.FIELD_REQUIRED, "join.schedules[1].legacy_decay.schedule")


def test_depth_is_bounded_before_it_hurts() -> None:
    message = ScheduleSpec()
    inner = message
    for _ in range(40):
        inner.legacy_decay.decay = 0.5
        inner = inner.legacy_decay.schedule
    inner.constant.value = 1.0
    reason, field = refusal(message)
    assert reason is Reason.LIMIT_EXCEEDED
    assert (field or "").startswith("legacy_decay.schedule.legacy_decay")
