"""The later schedules: their ends, what they refuse, and schedules within schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Chosen, Convention
from optserve_server.schedules import REGISTRY
from optserve_server.schedules.annealing import Annealing
from optserve_server.schedules.base import Schedule
from optserve_server.schedules.constant import Constant
from optserve_server.schedules.cosine import Cosine
from optserve_server.schedules.cosine_restarts import CosineRestarts
from optserve_server.schedules.cyclic import Cyclic, CyclicForm
from optserve_server.schedules.exponential import Exponential
from optserve_server.schedules.expression import Expression
from optserve_server.schedules.join import Join
from optserve_server.schedules.legacy_decay import LegacyDecay
from optserve_server.schedules.multi_step_decay import MultiStepDecay
from optserve_server.schedules.one_cycle import OneCycle
from optserve_server.schedules.piecewise_interpolation import PiecewiseInterpolation
from optserve_server.schedules.polynomial import Polynomial
from optserve_server.schedules.product import Product
from optserve_server.schedules.rsqrt import Rsqrt
from optserve_server.schedules.warmup import Warmup
from optserve_server.schedules.warmup_stable_decay import WarmupStableDecay
from tests.service.mathematics.test_declarations import VALID


def flat(value: float) -> Chosen[Schedule]:
    return Chosen(Constant(value=value))


def rates(schedule: Schedule, *steps: int) -> list[float]:
    return schedule.rates(np.array(steps, np.int64)).tolist()


@pytest.mark.parametrize("cls", REGISTRY.values(), ids=lambda cls: cls.name)
def test_many_steps_at_once_are_the_single_ones_bit_for_bit(cls: type[Schedule]) -> None:
    schedule = cls.resolve(VALID[cls.name], Convention.KERAS)
    steps = [*range(300), 10**6, 2**40]
    assert rates(schedule, *steps) == [schedule.rate(step) for step in steps]
    assert rates(schedule) == []


def test_a_constant() -> None:
    assert rates(Constant(value=0.5), 0, 7) == [0.5, 0.5]


def test_a_polynomial_ends_and_cycles() -> None:
    options = {"initial_learning_rate": 1.0, "decay_steps": 10.0, "end_learning_rate": 0.5}
    assert rates(Polynomial(**options), 0, 5, 10, 99) == [1.0, 0.75, 0.5, 0.5]
    # The period doubles after 10: at 15 three quarters of 20 are gone.
    assert rates(Polynomial(**options, cycle=True), 10, 15, 20) == pytest.approx([0.5, 0.625, 0.5])


def test_a_fractional_power_of_a_rounded_end_is_no_nan() -> None:
    schedule = Polynomial(initial_learning_rate=1.0, decay_steps=0.1, power=0.5, cycle=True)
    assert np.isfinite(schedule.rates(np.arange(10_000))).all()


@pytest.mark.parametrize("given", ["warmup_steps", "warmup_target"])
def test_a_warm_up_has_steps_and_a_target(given: str) -> None:
    with pytest.raises(DomainError) as caught:
        Cosine(initial_learning_rate=0.1, decay_steps=1.0, **{given: 1.0})
    missing = {"warmup_steps": "warmup_target", "warmup_target": "warmup_steps"}[given]
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, missing)


@pytest.mark.parametrize("t_mul", [1.0, 1.1, 1.5, 2.0, 3.0])
def test_a_restart_begins_where_the_decay_ends(t_mul: float) -> None:
    schedule = CosineRestarts(initial_learning_rate=1.0, first_decay_steps=1000.0, t_mul=t_mul)
    starts = np.rint(np.cumsum([1000 * t_mul**i for i in range(6)])).astype(np.int64)
    # 1.1 times 1000 is a whole number of steps three times over, in decimals only.
    starts = starts[: 3 if t_mul == 1.1 else 6 if t_mul != 1.5 else 3]
    assert schedule.rates(starts) == pytest.approx(1.0, abs=1e-9)
    assert (schedule.rates(starts - 1) < 1e-5).all()


def test_restarts_start_lower_each_time() -> None:
    schedule = CosineRestarts(initial_learning_rate=1.0, first_decay_steps=2.0, m_mul=0.5)
    assert rates(schedule, 0, 1, 2, 4, 6) == pytest.approx([1.0, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("form", [Annealing.COSINE, Annealing.LINEAR])
@pytest.mark.parametrize("three", [False, True])
def test_a_cycle_goes_up_and_down_and_stays(form: Annealing, three: bool) -> None:
    schedule = OneCycle(
        max_learning_rate=1.0, total_steps=101, pct_start=0.25, annealing=form, three_phase=three
    )
    values = schedule.rates(np.arange(200))
    assert values[0] == pytest.approx(1 / 25)
    assert 23 <= values.argmax() <= 25
    assert (np.diff(values[25:]) <= 1e-15).all()
    assert values[100:] == pytest.approx(1 / 25e4)


def test_the_shortest_cycles() -> None:
    for total in (1, 2, 3, 4):
        for part in (0.0, 0.25, 0.5, 1.0):
            values = OneCycle(max_learning_rate=1.0, total_steps=total, pct_start=part).rates(np.arange(9))
            assert np.isfinite(values).all()
            assert values[total:] == pytest.approx(1 / 25e4)


def test_three_phases_leave_room_for_the_third() -> None:
    with pytest.raises(DomainError) as caught:
        OneCycle(max_learning_rate=1.0, total_steps=9, pct_start=0.6, three_phase=True)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "pct_start")
    with pytest.raises(DomainError) as caught:
        OneCycle(max_learning_rate=1.0, total_steps=9, pct_start=0.6, three_phase=True, pct_final=0.5)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "pct_final")


def test_milestones_increase() -> None:
    with pytest.raises(DomainError) as caught:
        MultiStepDecay(initial_learning_rate=1.0, milestones=(3, 3))
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "milestones[1]")


def test_the_inverse_root_peaks_at_the_end_of_its_warm_up() -> None:
    schedule = Rsqrt(peak_learning_rate=1.0, warmup_steps=4.0)
    assert rates(schedule, 0, 3, 15) == [0.25, 1.0, 0.5]


@pytest.mark.parametrize(
    ("form", "middle"),
    [(Annealing.LINEAR, 0.75), (Annealing.COSINE, (1 + 2**-0.5) / 2), (Annealing.SQUARE_ROOT, 0.5)],
)
def test_up_level_and_down(form: Annealing, middle: float) -> None:
    schedule = WarmupStableDecay(
        peak_learning_rate=1.0, warmup_steps=2, stable_steps=3, decay_steps=4,
        initial_learning_rate=0.5, annealing=form,
    )  # fmt: skip
    assert rates(schedule, 0, 1, 2, 4, 5, 9, 99) == pytest.approx([0.5, 0.75, 1.0, 1.0, 1.0, 0.0, 0.0])
    assert schedule.rate(6) == pytest.approx(middle)


def test_a_warm_up_reaches_what_it_precedes() -> None:
    decay = Chosen(Exponential(initial_learning_rate=1.0, decay_steps=1.0, decay_rate=0.5))
    schedule = Warmup(schedule=decay, warmup_steps=4, initial_learning_rate=0.5)
    assert rates(schedule, 0, 2, 4, 5, 7) == [0.5, 0.75, 1.0, 0.5, 0.125]
    assert rates(Warmup(schedule=decay, warmup_steps=0), 0, 1) == [1.0, 0.5]


def test_joined_schedules_count_anew() -> None:
    decay = Chosen(Exponential(initial_learning_rate=1.0, decay_steps=1.0, decay_rate=0.5))
    schedule = Join(schedules=(flat(3.0), decay, decay), boundaries=(2, 4))
    assert rates(schedule, 0, 1, 2, 3, 4, 5) == [3.0, 3.0, 1.0, 0.5, 1.0, 0.5]


def test_as_many_schedules_as_parts() -> None:
    with pytest.raises(DomainError) as caught:
        Join(schedules=(flat(1.0),), boundaries=(2,))
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "schedules")


def test_legacy_decay_lies_on_top() -> None:
    schedule = LegacyDecay(schedule=Chosen(Warmup(schedule=flat(2.0), warmup_steps=2)), decay=0.5)
    assert rates(schedule, 0, 1, 2, 4) == [0.0, 1 / 1.5, 1.0, 2 / 3]


def nest(levels: int) -> Schedule:
    schedule: Schedule = Constant(value=1.0)
    for _ in range(levels - 1):
        schedule = LegacyDecay(schedule=Chosen(schedule), decay=0.5)
    return schedule


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (lambda: nest(8), lambda: nest(9)),
        (lambda: wide(63), lambda: wide(64)),
    ],
)
def test_schedules_hold_only_so_many(allowed: Any, refused: Any) -> None:
    assert math.isfinite(allowed().rate(1000))
    with pytest.raises(DomainError) as caught:
        refused()
    assert caught.value.reason is Reason.LIMIT_EXCEEDED


def wide(parts: int) -> Schedule:
    return Join(schedules=(flat(1.0),) * parts, boundaries=tuple(range(1, parts)))


def test_an_end_bounds_an_exponential_from_its_side() -> None:
    options = {"initial_learning_rate": 1.0, "decay_steps": 1.0}
    assert rates(Exponential(**options, decay_rate=0.5, end_learning_rate=0.2), 0, 1, 3) == [1.0, 0.5, 0.2]
    assert rates(Exponential(**options, decay_rate=2.0, end_learning_rate=3.0), 0, 1, 3) == [1.0, 2.0, 3.0]
    assert rates(Exponential(**options, decay_rate=2.0), 3) == [8.0]


def test_a_cosine_to_a_power() -> None:
    schedule = Cosine(initial_learning_rate=1.0, decay_steps=2.0, alpha=0.5, exponent=2.0)
    assert rates(schedule, 0, 1, 2) == pytest.approx([1.0, 0.625, 0.5])


@pytest.mark.parametrize(
    ("form", "second"),
    [(CyclicForm.TRIANGULAR, 1.0), (CyclicForm.TRIANGULAR2, 0.75), (CyclicForm.EXP_RANGE, None)],
)
def test_cycles_rise_and_fall(form: CyclicForm, second: float | None) -> None:
    schedule = Cyclic(
        base_learning_rate=0.5, max_learning_rate=1.0, step_size_up=2, step_size_down=4, form=form, gamma=0.5
    )
    top = 0.5 + 0.5 * 0.5**8 if second is None else second
    assert rates(schedule, 0, 6, 8, 12) == [0.5, 0.5, top, 0.5]
    assert np.isfinite(schedule.rates(np.array([2**60]))).all()


def test_a_cycle_goes_up() -> None:
    with pytest.raises(DomainError) as caught:
        Cyclic(base_learning_rate=0.5, max_learning_rate=0.4)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "max_learning_rate")


def test_products() -> None:
    decay = Chosen(Exponential(initial_learning_rate=1.0, decay_steps=1.0, decay_rate=0.5))
    assert rates(Product(schedules=(flat(3.0), decay)), 0, 2) == [3.0, 0.75]
    with pytest.raises(DomainError) as caught:
        Product(schedules=())
    assert (caught.value.reason, caught.value.field) == (Reason.FIELD_REQUIRED, "schedules")


@pytest.mark.parametrize(("form", "quarter"), [(Annealing.LINEAR, 1.5), (Annealing.SQUARE_ROOT, 2.0)])
def test_values_are_reached_at_boundaries(form: Annealing, quarter: float) -> None:
    schedule = PiecewiseInterpolation(boundaries=(4, 8), values=(1.0, 3.0, 0.5), annealing=form)
    assert rates(schedule, 0, 1, 4, 8, 99) == [1.0, quarter, 3.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"boundaries": (), "values": (1.0,)}, Reason.FIELD_REQUIRED, "boundaries"),
        ({"boundaries": (0,), "values": (1.0, 2.0)}, Reason.OUT_OF_RANGE, "boundaries[0]"),
        ({"boundaries": (2,), "values": (1.0,)}, Reason.CONFLICTING_FIELDS, "values"),
        ({"boundaries": (2,), "values": (1.0, -1.0)}, Reason.OUT_OF_RANGE, "values[1]"),
    ],
)
def test_what_cannot_be_interpolated(fields: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        PiecewiseInterpolation(**fields)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_formula_of_the_step() -> None:
    schedule = Expression(expression="RATE*0.5**floor(step/3) + mod(step, 2)", constants=(("RATE", 2.0),))
    assert rates(schedule, 0, 1, 2, 6) == [2.0, 3.0, 1.0 + 1.0, 0.5]
    assert rates(Expression(expression="0.25"), 0, 9) == [0.25, 0.25]
    assert rates(Expression(expression="(step + 1)**-0.5"), 3) == [0.5]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"expression": "y_pred"}, Reason.INVALID_EXPRESSION, "expression"),
        ({"expression": "step +"}, Reason.INVALID_EXPRESSION, "expression"),
        ({"expression": "cos(step, 1)"}, Reason.INVALID_EXPRESSION, "expression"),
        ({"expression": "1", "constants": (("floor", 1.0),)}, Reason.MALFORMED_NAME, "constants"),
        ({"expression": "1", "constants": (("A", math.inf),)}, Reason.OUT_OF_RANGE, "constants[A]"),
    ],
)
def test_what_is_no_formula(fields: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        Expression(**fields)
    assert (caught.value.reason, caught.value.field) == (reason, field)
