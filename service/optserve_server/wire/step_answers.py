"""Answers to streamed steps, written with what equal ones share kept as bytes."""

from __future__ import annotations

from optserve.framing import LENGTH, VARINT, Framing, varint
from optserve.v1 import session_service_pb2 as pb
from optserve_server.sessions.reading import Reply
from optserve_server.sessions.result import StepResult
from optserve_server.wire.sessions import fill_result, reply_header_to

RESPONSES = Framing(pb.StepStreamResponse)
RESULT = varint(pb.StepStreamResponse.RESULT_FIELD_NUMBER << 3 | LENGTH)
PARAMETERS = varint(pb.StepStreamResponse.PARAMETERS_FIELD_NUMBER << 3 | LENGTH)
STEP = varint(pb.ParametersHeader.STEP_FIELD_NUMBER << 3 | VARINT)


class Heads:
    """What comes before the values of an answer: the step's result, and what the values are.

    Of the values' description only the step differs from answer to answer, and with a thousand
    tensors it is long.

    Args:
        reply: the values; None where there are none.
    """

    def __init__(self, reply: Reply | None) -> None:
        self._result = pb.StepResult()
        self._rest: bytes | None = None
        if reply is not None:
            header = reply_header_to(reply)
            header.ClearField("step")
            self._rest = header.SerializeToString()

    def encode(self, result: StepResult, step: int) -> bytes:
        """The fields of a `StepStreamResponse` before its chunk, as the generated code writes them.

        Args:
            result: what the step did.
            step: which one the values belong to.
        """
        fill_result(self._result, result)
        told, rest = self._result.SerializeToString(), self._rest
        if rest is None:
            return b"".join((RESULT, varint(len(told)), told))
        counted = STEP + varint(step) if step else b""
        described = varint(len(counted) + len(rest))
        return b"".join((RESULT, varint(len(told)), told, PARAMETERS, described, counted, rest))
