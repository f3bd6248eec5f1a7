"""Repeated requests: one of many acts, and a caller that goes away changes nothing."""

from __future__ import annotations

import asyncio

import pytest

from optserve.v1.session_service_pb2 import DeleteSessionRequest, DeleteSessionResponse, GetSessionRequest
from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.execution.idempotency import answer_once, digest_request
from optserve_server.sessions.request_ledger import AnsweredRequest, RequestLedger
from optserve_server.state.session_change import ChangeKind, Request


class Acts:
    """Counts how often it acts; each act takes a few turns of the event loop."""

    def __init__(self, failures: int = 0) -> None:
        self.begun = 0
        self.done = 0
        self._failures = failures

    async def __call__(self) -> DeleteSessionResponse:
        self.begun += 1
        for _ in range(3):
            await asyncio.sleep(0)
        if self.begun <= self._failures:
            raise DomainError(Reason.SESSION_NOT_FOUND, "not yet")
        self.done += 1
        return DeleteSessionResponse()


class Repeats:
    """Requests of one namespace."""

    def __init__(self) -> None:
        self.ledger = RequestLedger()

    async def once(self, key: str, content: bytes, acts: Acts) -> DeleteSessionResponse:
        return await answer_once(self.ledger, Request(key, content), acts)


def test_concurrent_calls_with_one_id_act_once() -> None:
    async def run() -> int:
        acts, kept = Acts(), Repeats()
        answers = await asyncio.gather(*(kept.once("a", b"x", acts) for _ in range(10)))
        assert answers == [DeleteSessionResponse()] * 10
        return acts.begun

    assert asyncio.run(run()) == 1


def test_calls_without_an_id_act_each() -> None:
    async def run() -> int:
        acts, kept = Acts(), Repeats()
        await asyncio.gather(*(kept.once("", b"", acts) for _ in range(3)))
        return acts.done

    assert asyncio.run(run()) == 3


def test_another_content_is_refused_while_the_first_acts() -> None:
    async def run() -> None:
        acts, kept = Acts(), Repeats()
        first = asyncio.create_task(kept.once("a", b"x", acts))
        await asyncio.sleep(0)
        with pytest.raises(DomainError) as caught:
            await kept.once("a", b"y", acts)
        await first
        assert (caught.value.reason, acts.begun) == (Reason.REQUEST_ID_REUSED, 1)

    asyncio.run(run())


def test_an_error_is_not_kept() -> None:
    async def run() -> int:
        acts, kept = Acts(failures=1), Repeats()
        with pytest.raises(DomainError):
            await kept.once("a", b"x", acts)
        await kept.once("a", b"x", acts)
        return acts.done

    assert asyncio.run(run()) == 1


def test_a_caller_that_goes_away_leaves_the_answer_for_the_next() -> None:
    async def run() -> int:
        acts, kept = Acts(), Repeats()
        first = asyncio.create_task(kept.once("a", b"x", acts))
        for _ in range(3):
            await asyncio.sleep(0)
        assert acts.begun == 1
        first.cancel()
        await kept.once("a", b"x", acts)
        return acts.begun

    assert asyncio.run(run()) == 1


def test_contents_differ_by_kind_fields_and_payload() -> None:
    messages = [DeleteSessionRequest(name="a"), DeleteSessionRequest(name="b"), GetSessionRequest(name="a")]
    contents = {digest_request(message, payload) for message in messages for payload in (b"", b"x")}
    assert len(contents) == 6
    assert digest_request(messages[0], b"x") == digest_request(DeleteSessionRequest(name="a"), b"x")


def test_all_that_a_server_comes_back_with_is_known() -> None:
    """However much it is; later answers replace the oldest."""

    async def run() -> int:
        acts, kept = Acts(), Repeats()
        for number in range(1500):
            kept.ledger.restore_answer(
                AnsweredRequest(Request(str(number), b"content"), ChangeKind.DELETE, b"", 7)
            )
        for number in (0, 1499):
            await kept.once(str(number), b"content", acts)
        assert acts.begun == 0
        await kept.once("new", b"content", acts)
        await kept.once("1", b"content", acts)
        assert acts.begun == 1
        await kept.once("0", b"content", acts)
        return acts.begun

    assert asyncio.run(run()) == 2


def test_a_snapshot_holds_the_last_answers_of_its_owner() -> None:
    ledger = RequestLedger()
    for number in range(100):
        ledger.remember_answer(
            AnsweredRequest(Request(str(number), b"content"), ChangeKind.PUSH, b"answer", number % 2)
        )
    ledger.remember_answer(AnsweredRequest(Request(), ChangeKind.PUSH, b"without a key", 1))
    state = ledger.to_json(1, 10)
    assert [key for key, *_ in state] == [str(number) for number in range(81, 100, 2)]
    again = RequestLedger()
    for one in state:
        again.restore_answer(AnsweredRequest.from_json(one, 1))
    assert again.to_json(1, 10) == state
    assert again.find_answer(Request("99", b"content")) == ledger.find_answer(Request("99", b"content"))
