"""The steps of a training loop: each asks for the same as the one before, of another gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple, Self

from optserve._codec.framing import ChunkView, Encoded
from optserve_server.rpc.data_connection import Arriving, Message, opening
from optserve_server.rpc.execution import Execution
from optserve_server.rpc.sharing import SharedAnswer
from optserve_server.sessions.reading import Reply
from optserve_server.sessions.regions import Region
from optserve_server.sessions.result import StepOptions, StepResult
from optserve_server.sessions.routine import Routine
from optserve_server.sessions.session import Session
from optserve_server.sessions.staging import Staging
from optserve_server.wire.repetition import Repetition
from optserve_server.wire.step_answers import RESPONSES, Heads


class Taken(NamedTuple):
    """A step that was taken.

    Attributes:
        head: what asked for it: the message, or its first bytes.
        size: of the message.
        session: whose it was.
        staging: its gradient.
        options: what it asked for.
        reply: the values that were sent back; None for none.
        region: the shared memory that the gradient lay in; None where it was sent.
        told: whether the answer says that values are in the region.
    """

    head: Encoded
    size: int
    session: Session
    staging: Staging
    options: StepOptions
    reply: Reply | None
    region: Region | None
    told: bool


class Loop:
    """Takes a small session's steps from message to message; made by `of`.

    Args:
        repetition: the pattern of the messages.
        routine: of the steps.
        room: where the gradient goes; None where it lies in shared memory.
        answer: gives the answer's bytes.
        execution: where steps of sessions that are kept on the disk are taken.
    """

    def __init__(
        self,
        repetition: Repetition,
        routine: Routine,
        room: memoryview | None,
        answer: Callable[[StepResult], bytes],
        execution: Execution,
    ) -> None:
        self._repetition, self._routine = repetition, routine
        self._execution, self._meters = execution, execution.meters
        self._room, self._answer = room, answer

    @classmethod
    def of(cls, taken: Taken, execution: Execution) -> Self | None:
        """The loop that goes on from a step; None where each step has to be looked at."""
        sent = taken.staging.byte_count if taken.region is None else 0
        if taken.size < sent:  # it comes in several messages
            return None
        routine = Routine.of(taken.session, taken.staging, taken.options, taken.reply)
        repetition = Repetition.of(taken.head, taken.size) if routine is not None else None
        if routine is None or repetition is None or taken.size - repetition.payload != sent:
            return None
        room = taken.staging.buffer.data if taken.region is None else None
        answer = _Sent(taken.reply).answer
        if taken.region is not None and taken.reply is None:
            answer = SharedAnswer(taken.region, told=taken.told).encode
        return cls(repetition, routine, room, answer, execution)

    async def take(self, message: Message) -> bytes | None:
        """Takes a step.

        Returns:
            The answer to be sent at once; None where the step has to be looked at, and nothing
            has changed but the staging.
        """
        begun = perf_counter_ns()
        head, size = opening(message)
        differing = self._repetition.read(head, size)
        if differing is None:
            return None
        if self._room is not None:
            here = memoryview(head)[self._repetition.payload :]
            self._room[: len(here)] = here
            if isinstance(message, Arriving):
                await message.rest(self._room[len(here) :])
        received = perf_counter_ns()
        self._meters.receive.add(received - begun)
        session = self._routine.session
        if session.kept is not None:
            result = await self._execution.kept(session, partial(self._prepared, differing), Routine.commit)
        elif session.lock.locked() or not self._routine.prepare(*differing):
            result = None
        else:
            result = self._routine.commit()
            self._meters.work.add(perf_counter_ns() - received)
        if result is None:
            return None
        worked = perf_counter_ns()
        answer = self._answer(result)
        self._meters.answer.add(perf_counter_ns() - worked)
        return answer

    def _prepared(self, differing: tuple[int, int | None, int]) -> Routine | None:
        return self._routine if self._routine.prepare(*differing) else None


class _Sent:
    """Answers whose values, if there are any, go with them in one message."""

    def __init__(self, reply: Reply | None) -> None:
        self._heads = Heads.of(reply)
        self._values = None if reply is None else ChunkView(0, reply.staging.buffer.data)

    def answer(self, result: StepResult) -> bytes:
        head = self._heads.encode(result, result.step)
        return head if self._values is None else RESPONSES.join(head, self._values)
