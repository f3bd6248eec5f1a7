"""Exactly once: repeated, reused, missing and late steps and requests."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.adam import Adam
from optserve_server.sessions.request_ledger import AnsweredRequest, RequestLedger
from optserve_server.sessions.session import Session
from optserve_server.state.session_change import ChangeKind, Request
from optserve_server.state.step_deduplication import (
    MAX_STORED_NORMS,
    RESULTS_KEPT,
    WORKERS_KEPT,
    StepDeduplication,
)
from optserve_server.state.step_result import StepOutcome, StepResult
from tests.service.sessions.support import parameters, session_of, spec_of, step

GRADIENT = {"w": np.array([1.0, -1.0, 2.0])}


@pytest.fixture
def session() -> Session:
    return session_of(spec_of(Adam()), {"w": np.ones(3)})


def refusal(session: Session, **options: object) -> DomainError:
    before = parameters(session)["w"].tobytes()
    with pytest.raises(DomainError) as caught:
        step(session, options.pop("gradient", GRADIENT), **options)  # type: ignore[arg-type]
    assert parameters(session)["w"].tobytes() == before
    return caught.value


def test_the_same_step_again_returns_the_stored_result(session: Session) -> None:
    first = step(session, GRADIENT, worker="a", sequence=1)
    before = parameters(session)["w"].tobytes()
    again = step(session, GRADIENT, worker="a", sequence=1)
    assert again == dataclasses.replace(first, replayed=True)
    assert parameters(session)["w"].tobytes() == before
    assert session.step == 1


def test_a_repeat_is_answered_although_the_session_moved_on(session: Session) -> None:
    first = step(session, GRADIENT, worker="a", sequence=1, expected_step=0)
    step(session, GRADIENT, worker="b", sequence=1)
    again = step(session, GRADIENT, worker="a", sequence=1, expected_step=0)
    assert again == dataclasses.replace(first, replayed=True)


def test_another_payload_under_the_same_sequence(session: Session) -> None:
    step(session, GRADIENT, worker="a", sequence=1)
    error = refusal(session, gradient={"w": np.array([1.0, -1.0, 3.0])}, worker="a", sequence=1)
    assert (error.reason, error.field) == (Reason.SEQUENCE_REUSED, "options.sequence")


def test_another_loss_scale_is_another_payload(session: Session) -> None:
    step(session, GRADIENT, worker="a", sequence=1)
    assert refusal(session, worker="a", sequence=1, loss_scale=2.0).reason is Reason.SEQUENCE_REUSED


def test_a_gap_names_the_expected_sequence(session: Session) -> None:
    step(session, GRADIENT, worker="a", sequence=1)
    error = refusal(session, worker="a", sequence=3)
    assert (error.reason, error.metadata) == (Reason.SEQUENCE_GAP, {"expected": "2", "actual": "3"})


def test_results_are_kept_for_as_long_as_promised(session: Session) -> None:
    for sequence in range(1, RESULTS_KEPT + 2):
        step(session, GRADIENT, worker="a", sequence=sequence)
    assert step(session, GRADIENT, worker="a", sequence=2).step == 2
    assert refusal(session, worker="a", sequence=1).reason is Reason.SEQUENCE_EXPIRED


def result_with_norms(step: int) -> StepResult:
    norms = tuple((f"tensor{index}", float(step + index)) for index in range(4000))
    return StepResult(step, StepOutcome.APPLIED, tensor_norms=norms)


@pytest.mark.slow
def test_results_with_many_norms_take_little_memory() -> None:
    """4,000 tensors and 64 steps of 8 workers: as pairs, the norms took 200 MB."""
    ledger, digest = StepDeduplication(), b"digest"
    tracemalloc.start()
    for number in range(1, RESULTS_KEPT + 10):
        for worker in range(8):
            ledger.remember_result(f"worker{worker}", digest, result_with_norms(number))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 8 * MAX_STORED_NORMS * 5 // 4
    last = RESULTS_KEPT + 9
    expected = dataclasses.replace(result_with_norms(last), replayed=True)
    assert all(ledger.find_result(f"worker{worker}", last, digest) == expected for worker in range(8))
    restored = StepDeduplication.from_json(ledger.to_json())
    assert restored.to_json() == ledger.to_json()


def test_the_last_result_of_every_worker_is_kept_whatever_its_size() -> None:
    ledger, digest = StepDeduplication(), b"digest"
    ledger.remember_result("quiet", digest, result_with_norms(1))
    ledger.remember_result("quiet", digest, result_with_norms(2))
    for number in range(3, MAX_STORED_NORMS // 4000 // RESULTS_KEPT * RESULTS_KEPT + 200):
        ledger.remember_result(f"worker{number % 20}", digest, result_with_norms(number))
    assert ledger.find_result("quiet", 2, digest).step == 2
    with pytest.raises(DomainError, match="no longer stored"):
        ledger.is_next("quiet", 1)


def test_a_wrong_expected_step_names_the_current_one(session: Session) -> None:
    step(session, GRADIENT)
    error = refusal(session, expected_step=0)
    assert (error.reason, error.field) == (Reason.STEP_MISMATCH, "options.expected_step")
    assert error.metadata == {"expected": "0", "current": "1"}


def test_a_refused_step_uses_no_sequence(session: Session) -> None:
    refusal(session, gradient={"w": np.full(3, np.nan)}, worker="a", sequence=1)
    assert step(session, GRADIENT, worker="a", sequence=1).step == 1


def test_the_worker_that_was_silent_longest_is_forgotten(session: Session) -> None:
    ledger = StepDeduplication()
    result = step(session, GRADIENT)
    for number in range(WORKERS_KEPT + 1):
        ledger.remember_result(f"w{number}", b"x", result)
    assert ledger.find_result("w1", 1, b"x") == dataclasses.replace(result, replayed=True)
    assert ledger.next_sequence("w0") == 1


def test_members_are_not_forgotten(session: Session) -> None:
    ledger = StepDeduplication()
    result = step(session, GRADIENT)
    members = {f"m{number}" for number in range(WORKERS_KEPT + 1)}
    for worker in [*members, *(f"w{number}" for number in range(WORKERS_KEPT + 1))]:
        ledger.remember_result(worker, b"x", result, lambda: members)
    assert {ledger.next_sequence(worker) for worker in members} == {2}
    assert (ledger.next_sequence("w0"), ledger.next_sequence("w1")) == (1, 2)
    ledger.remember_result("another", b"x", result)  # they have left
    assert len(ledger.to_json()) == WORKERS_KEPT


def test_request_ledger() -> None:
    ledger = RequestLedger(capacity=2)
    first = AnsweredRequest(Request("a", b"1"), ChangeKind.PUSH, b"answer")
    ledger.remember_answer(first)
    assert ledger.find_answer(Request("a", b"1")) == first
    assert ledger.find_answer(Request("b", b"1")) is None
    with pytest.raises(DomainError) as caught:
        ledger.find_answer(Request("a", b"2"))
    assert caught.value.reason is Reason.REQUEST_ID_REUSED
    for key in ("b", "c"):
        ledger.remember_answer(AnsweredRequest(Request(key, b"1"), ChangeKind.PUSH, b"x"))
    assert ledger.find_answer(Request("a", b"1")) is None
