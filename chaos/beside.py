"""Steps over a data connection, to a server that may be killed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client
from tests.integration.raw_stream import ACCEPTED, GREETING, PREFIX, RawStream, asking, frame, receive_exactly

SECONDS = 60.0
"""How long a stream may last: longer than any server that is to be killed."""


class Beside:
    """A stream of a client's that has gone over to a data connection.

    Args:
        client: to a server on this machine.
        plan: what the stream's steps have in common.

    Raises:
        grpc.RpcError: the server has gone.
    """

    def __init__(self, client: Client, plan: pb.StepPlan) -> None:
        self.client, self.plan = client, plan
        self._stream = RawStream(client, seconds=SECONDS)
        try:
            self._go_over()
            assert self._answer([pb.StepStreamRequest(plan=plan)]).HasField("planned")
        except BaseException:
            self.close()
            raise

    def _go_over(self) -> None:
        offer = self._stream.offer()
        try:
            accepted = self._stream.knock(GREETING + offer.ticket, offer.port) == ACCEPTED
        except OSError:
            accepted = False
        if not accepted:
            raise self._failure()
        self._stream.say(asking(offer.ticket))

    def step(self, messages: Iterable[pb.StepStreamRequest]) -> pb.StepResult:
        """Takes a step.

        Raises:
            grpc.RpcError: there is no answer.
        """
        return self._answer(messages).result

    def _answer(self, messages: Iterable[pb.StepStreamRequest]) -> pb.StepStreamResponse:
        """The answer to some messages, which is one message long."""
        connection = self._stream.socket
        try:
            connection.sendall(frame(messages))
            prefix = receive_exactly(connection, PREFIX.size)
            answer = (
                receive_exactly(connection, PREFIX.unpack(prefix)[1]) if len(prefix) == PREFIX.size else b""
            )
        except OSError:
            prefix = answer = b""
        if len(prefix) < PREFIX.size or len(answer) < PREFIX.unpack(prefix)[1]:
            raise self._failure()
        return pb.StepStreamResponse.FromString(answer)

    def close(self) -> None:
        """Ends it."""
        self._stream.__exit__(None, None, None)

    def _failure(self) -> Exception:
        """Raises what the call says of its end, which it must."""
        answers = list(self._stream.call)
        return AssertionError(f"the server did not end the stream in order, after {answers}")
