"""The calls of a transcript, which keep a client, a session and its worker."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from stubs import driver_pb2 as pb
from values import arrays, first_value, list_fields, tensors

import optserve
from optserve import errors
from optserve._codec.dtypes import Array
from optserve.spec import decode_spec

CODES = {kind: code.value[0] for code, kind in reversed(errors.BY_CODE.items())}
"""gRPC's status codes by class of error."""


class Worker:
    """One worker of one session, over one client, until the next `connect`."""

    def __init__(self) -> None:
        self._client: optserve.Client | None = None
        self._session: optserve.SessionHandle | None = None
        self._member: optserve.Member | None = None
        self._stream: optserve.StepStream | None = None
        self._worker, self._window = "", 0

    def connect(self, call: pb.ConnectCall) -> pb.DriverResponse:
        """Replaces the client. Steps are sent to the given address alone, where a test has its faults."""
        self.close()
        self._client = optserve.connect(
            call.target, token=call.token or None, progress=False, shared_memory=False
        )
        return pb.DriverResponse(connect=pb.ConnectAnswer())

    def open(self, call: pb.OpenCall) -> pb.DriverResponse:
        """Creates or opens a session."""
        assert self._client is not None
        self._release()
        self._worker, self._window = call.worker or uuid.uuid4().hex, 0
        name = call.session
        if not name:
            parameters = {init.name: first_value(init) for init in call.parameters}
            name = self._client.create_session(parameters, **list_fields(decode_spec(call.spec))).name
        self._session = self._client.session(name, worker=self._worker)
        return pb.DriverResponse(open=pb.OpenAnswer(session=name, step=self._session.step_number))

    def join(self, call: pb.JoinCall) -> pb.DriverResponse:
        """Makes the worker a member."""
        session = self._session_handle()
        if self._member is not None:
            self._member.close()
        lease = call.lease_seconds if call.HasField("lease_seconds") else None
        self._member = session.join(self._worker, lease=lease)
        return pb.DriverResponse(join=pb.JoinAnswer(epoch=self._member.epoch, rank=self._member.rank))

    def steps(self, call: pb.StepsCall) -> pb.DriverResponse:
        """Takes steps until one fails."""
        answer = pb.StepsAnswer()
        try:
            for result in self._take(call):
                answer.outcomes.add(step=result.step, sequence=result.sequence, replayed=result.replayed)
        except optserve.OptserveError as error:
            answer.refusal.CopyFrom(refusal_of(error))
        return pb.DriverResponse(steps=answer)

    def read(self, call: pb.ReadCall) -> pb.DriverResponse:
        """Reads all parameters."""
        newer = call.newer_than if call.HasField("newer_than") else None
        values = (self._member or self._session_handle()).pull(newer_than_step=newer)
        return pb.DriverResponse(read=pb.ReadAnswer(parameters=tensors(values), step=values.step))

    def leave(self, call: pb.LeaveCall) -> pb.DriverResponse:
        """Ends the membership."""
        assert self._member is not None, "the worker has not joined"
        self._member.leave()
        self._member = None
        return pb.DriverResponse(leave=pb.LeaveAnswer())

    def close(self) -> None:
        """Ends everything, as the end of a program does: without a word to the server."""
        self._release()
        if self._client is not None:
            self._client.close()

    def _take(self, call: pb.StepsCall) -> Iterator[optserve.StepResult]:
        seconds = call.timeout_seconds if call.HasField("timeout_seconds") else None
        expected = call.expected_step if call.HasField("expected_step") else None
        asked: list[tuple[Mapping[str, Array], int | None]] = [
            (arrays(some), None if expected is None else expected + number)
            for number, some in enumerate(call.gradients)
        ]
        if self._member is not None:
            for gradients, _ in asked:
                yield self._member.step(gradients, timeout=seconds)
        elif not call.window:
            self._use(0)
            for gradients, step in asked:
                yield self._session_handle().step(gradients, expected_step=step, timeout=seconds)
        else:
            stream, pending = self._use(call.window), deque[Any]()
            for gradients, step in asked:
                pending.append(stream.submit(gradients, expected_step=step))
                if len(pending) == call.window:
                    yield pending.popleft().result(seconds)
            while pending:
                yield pending.popleft().result(seconds)

    def _use(self, window: int) -> Any:
        """The stream of a window; None for 0. Handle and streams are one worker, so one of them is used."""
        if window != self._window:
            session, client = self._session_handle(), self._client
            assert client is not None
            self._end_stream()
            self._session = client.session(session, worker=self._worker)
            if window:
                self._stream = self._session.stream(window=window, worker=self._worker, shared_memory=False)
            self._window = window
        return self._stream

    def _session_handle(self) -> optserve.SessionHandle:
        assert self._session is not None, "no session is open"
        return self._session

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _release(self) -> None:
        self._end_stream()
        if self._member is not None:
            self._member.close()
        self._member = self._session = None


def refusal_of(error: optserve.OptserveError) -> pb.Refusal:
    """An error as the client's class states it."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), 2)
    reason: Any = error.reason.value if error.reason is not None else 0
    return pb.Refusal(reason=reason, field=error.field or "", code=code, not_applied=error.applied is False)
