"""Answers to streamed steps, written with what equal ones share kept as bytes."""

from __future__ import annotations

import functools
import struct
from typing import Self

from optserve._codec.framing import FIXED64, LENGTH, VARINT, Framing, varint
from optserve.v1 import session_service_pb2 as pb
from optserve_server.sessions.reading import Reply
from optserve_server.sessions.result import StepOutcome, StepResult
from optserve_server.wire.sessions import fill_result, reply_header_to

RESPONSES = Framing(pb.StepStreamResponse)
RESULT = varint(pb.StepStreamResponse.RESULT_FIELD_NUMBER << 3 | LENGTH)
PARAMETERS = varint(pb.StepStreamResponse.PARAMETERS_FIELD_NUMBER << 3 | LENGTH)
STEP_OF_VALUES = varint(pb.ParametersHeader.STEP_FIELD_NUMBER << 3 | VARINT)
CHANGE_OF_VALUES = varint(pb.ParametersHeader.CHANGE_FIELD_NUMBER << 3 | VARINT)
STEP = varint(pb.StepResult.STEP_FIELD_NUMBER << 3 | VARINT)
APPLIED = varint(pb.StepResult.OUTCOME_FIELD_NUMBER << 3 | VARINT) + varint(pb.STEP_OUTCOME_APPLIED)
RATE, NORM, CLIPPED = (
    number << 3 | FIXED64
    for number in (
        pb.StepResult.LEARNING_RATE_FIELD_NUMBER,
        pb.StepResult.GRADIENT_NORM_FIELD_NUMBER,
        pb.StepResult.CLIPPED_GRADIENT_NORM_FIELD_NUMBER,
    )
)
DOUBLES = struct.Struct("<BdBdBd")
"""Three doubles, each behind its tag."""

length = functools.lru_cache(maxsize=1024)(varint)
"""A varint that comes again and again."""


class Heads:
    """What comes before the values of an answer: the step's result, and what the values are.

    Of the values' description only the step and the change differ from answer to answer, and with a
    thousand tensors it is long.

    Args:
        header: describes the values; None where there are none.
    """

    def __init__(self, header: pb.ParametersHeader | None) -> None:
        self._result = pb.StepResult()
        self._rest: bytes | None = None
        if header is not None:
            header.ClearField("step")
            header.ClearField("change")
            self._rest = header.SerializeToString()

    @classmethod
    def of(cls, reply: Reply | None) -> Self:
        """Those of values that go with the answer; None for none."""
        return cls(None if reply is None else reply_header_to(reply))

    def encode(self, result: StepResult, step: int, change: int = 0) -> bytes:
        """The fields of a `StepStreamResponse` before its chunk, as the generated code writes them.

        Args:
            result: what the step did.
            step: which one the values belong to.
            change: how many changes they are the outcome of, where they lie in live memory.
        """
        told, rest = _plain(result), self._rest
        if not told:
            fill_result(self._result, result)
            told = self._result.SerializeToString()
        if rest is None:
            return b"".join((RESULT, length(len(told)), told))
        counted = STEP_OF_VALUES + varint(step) if step else b""
        last = CHANGE_OF_VALUES + varint(change) if change else b""
        described = length(len(counted) + len(rest) + len(last))
        return b"".join((RESULT, length(len(told)), told, PARAMETERS, described, counted, rest, last))


def _plain(result: StepResult) -> bytes:
    """A result that says what nearly all of them do, as the generated code writes it; else nothing."""
    rate, norm, clipped = result.learning_rate, result.gradient_norm, result.clipped_gradient_norm
    if (
        result.outcome is not StepOutcome.APPLIED
        or result.non_finite_count
        or result.staleness
        or result.regularization_penalty
        or result.durable_step
        or result.accumulated
        or result.tensor_norms
        or result.replayed
        or not (result.step and rate and norm and clipped)  # zeros are not written
    ):
        return b""
    doubles = DOUBLES.pack(RATE, rate, NORM, norm, CLIPPED, clipped)
    return b"".join((STEP, varint(result.step), APPLIED, doubles))
