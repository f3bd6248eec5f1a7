"""Finite gradients that are not finite any more when the rule gets them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from optserve_server.arrays.numba_jit import NumbaBackend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Store
from optserve_server.spec.session_spec import ClipByGlobalNorm, ClipByValue, GradientSpec, NonFinitePolicy
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions, StepOutcome
from optserve_server.stepping.step import Step
from tests.service.sessions.support import parameters, session_of, spec_of, step
from tests.support.tiers import slow_unless

REJECT, SKIP, ALLOW = NonFinitePolicy.REJECT, NonFinitePolicy.SKIP, NonFinitePolicy.ALLOW
START = np.array([1.0, -2.0, 1e30], np.float32)
LARGE = np.array([1.0, 3e38, -3e38], np.float32)

# What the session's specification and a step's options say, the gradient, and what the refusal tells.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], npt.NDArray[Any], str]] = {
    "loss scale": ({}, {"loss_scale": 2.0**-14}, LARGE, "division by the loss scale 6.103515625e-05"),
    "l2": ({"l2": 1e38}, {}, np.array([1.0, -3e38, 1.0], np.float32), "l2 regularization"),
    "l1": ({"l1": 3e38}, {}, np.array([1.0, -3e38, 3e38], np.float32), "l1 regularization"),
    "conversion": ({}, {}, np.array([1.0, 1e39, -1e39]), "conversion to float32"),
    "clipped later": (
        {"clip": ClipByValue(max_value=1.0)}, {"loss_scale": 0.1}, LARGE, "division by the loss scale 0.1"
    ),
    "norm": ({"clip": ClipByGlobalNorm(max_norm=1.0)}, {"loss_scale": 0.1}, LARGE, "the loss scale 0.1"),
}  # fmt: skip


def make(backend: Any = NumpyBackend, **gradient: Any) -> Session:
    return session_of(spec_of(gradient=GradientSpec(**gradient)), {"a": START, "b": START}, Store(backend()))


def state(session: Session) -> list[Any]:
    return [session.step, session.accumulated, *(array.tolist() for array in parameters(session).values())]


def apply_in_pieces(session: Session, gradient: npt.NDArray[Any], options: StepOptions) -> Any:
    """A step whose gradient is measured while it arrives."""
    staging = session.stage_arrays([NamedArray("b", gradient)])
    step = Step(session, staging, options)
    for reached in range(gradient.itemsize, gradient.nbytes + 1, gradient.itemsize):
        step.on_received(reached)
    return step.prepare(session).commit()


@pytest.mark.parametrize(
    "backend", slow_unless(lambda kind: kind is NumpyBackend, [NumpyBackend, NumbaBackend])
)
@pytest.mark.parametrize("case", CASES)
def test_an_overflow_before_the_rule_is_refused(case: str, backend: Any) -> None:
    spec, options, gradient, text = CASES[case]
    session = make(backend, **spec)
    before = state(session)
    for apply in (lambda: step(session, {"b": gradient}, **options),
                  lambda: apply_in_pieces(session, gradient, StepOptions(**options))):  # fmt: skip
        with pytest.raises(DomainError) as caught:
            apply()
        assert caught.value.reason is Reason.NON_FINITE_GRADIENT
        assert caught.value.field == "gradients[0].tensor.data"
        assert caught.value.metadata == {"tensor": "b", "count": "2"}
        assert caught.value.message.endswith(text)
        assert "'b' is finite as sent, but has 2 elements that are not after" in caught.value.message
    assert state(session) == before


@pytest.mark.parametrize("case", CASES)
def test_an_overflow_before_the_rule_is_skipped(case: str) -> None:
    spec, options, gradient, _ = CASES[case]
    session = make(**spec, non_finite=SKIP)
    before = state(session)
    result = step(session, {"b": gradient}, **options)
    assert (result.outcome, result.non_finite_count) == (StepOutcome.SKIPPED, 2)
    assert (state(session), session.skipped) == (before, 1)


@pytest.mark.parametrize("case", CASES)
def test_an_overflow_before_the_rule_is_allowed(case: str) -> None:
    spec, options, gradient, _ = CASES[case]
    result = step(make(**spec, non_finite=ALLOW), {"b": gradient}, **options)
    assert (result.outcome, result.step, result.non_finite_count) == (StepOutcome.APPLIED, 1, 2)


@pytest.mark.parametrize(("steps", "position"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("policy", [REJECT, SKIP])
def test_a_micro_batch_that_overflows_leaves_no_trace(
    policy: NonFinitePolicy, steps: int, position: int
) -> None:
    """The others are accumulated as if it had never come, whether it would have been the last or not."""
    session = make(accumulation_steps=steps, non_finite=policy)
    usual = {name: np.array([3.0, 2e38, -2e38], np.float32) for name in "ab"}
    small = {name: np.array([0.0, -1e38, 1e38], np.float32) for name in "ab"}
    large = {**small, "b": LARGE}
    sent = [usual, *[small] * (position - 1)]
    for gradient in sent:
        assert step(session, gradient).outcome is StepOutcome.ACCUMULATED
    before = state(session)
    if policy is REJECT:
        with pytest.raises(DomainError, match=r"'b' is finite as sent, .* not after accumulation") as caught:
            step(session, large)
        assert caught.value.metadata == {"tensor": "b", "count": "2"}
    else:
        result = step(session, large)
        assert (result.outcome, result.accumulated) == (StepOutcome.SKIPPED, position)
        assert (result.non_finite_count, session.skipped) == (2, 1)
    assert state(session) == before
    for _ in range(steps - position):
        result = step(session, small)
    assert result.outcome is StepOutcome.APPLIED
    # The mean of one usual gradient and of small ones, by SGD at 0.1.
    mean = np.array([3.0, 2e38 - (steps - 1) * 1e38, -(2e38 - (steps - 1) * 1e38)]) / steps
    np.testing.assert_allclose(parameters(session)["b"], START - 0.1 * mean, rtol=1e-6)


def test_accumulation_that_overflows_is_allowed() -> None:
    session = make(accumulation_steps=2, non_finite=ALLOW)
    counts = [step(session, {"a": LARGE, "b": LARGE}).non_finite_count for _ in range(2)]
    assert (counts, session.step) == ([0, 4], 1)


def test_what_was_sent_is_not_blamed_for_the_sum_of_rows() -> None:
    table = np.ones((3, 2), np.float32)
    sessions = [session_of(spec_of(gradient=GradientSpec()), {"t": table}) for _ in range(2)]
    repeated = NamedRows("t", np.array([1, 1]), np.full((2, 2), 3e38, np.float32))
    wide = NamedRows("t", np.array([1]), np.array([[1e39, 1.0]]))
    for session, rows, told in zip(
        sessions, (repeated, wide),
        ("has 2 elements that are not after the sum of repeated rows",
         "has 1 elements that are not after conversion to float32"),
        strict=True,
    ):  # fmt: skip
        with pytest.raises(DomainError, match=f"'t' is finite as sent, but {told}$"):
            session.take_step(session.stage_arrays([], [rows]), StepOptions())
        np.testing.assert_array_equal(parameters(session)["t"], table)


def test_an_infinity_that_was_sent_is_told_as_such() -> None:
    with pytest.raises(DomainError, match=r"^the gradient of 'a' has 1 elements that are not finite$"):
        step(make(l2=1e38), {"a": np.array([np.inf, 0, 0]), "b": LARGE})
