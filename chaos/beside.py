"""Steps over a data connection, to a server that may be killed meanwhile."""

from __future__ import annotations

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, step_messages
from tests.integration.raw_stream import ACCEPTED, GREETING, PREFIX, RawStream, asking, framed, taken

SECONDS = 60.0
"""How long a stream may last: longer than any server that is to be killed."""


class Beside:
    """A stream of a client's that has gone over to a data connection.

    Args:
        client: to a server on this machine.

    Raises:
        grpc.RpcError: the server has gone.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._stream = RawStream(client, seconds=SECONDS)
        try:
            self._go_over()
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

    def step(self, header: pb.StepHeader, data: bytes) -> pb.StepResult:
        """Takes a step.

        Raises:
            grpc.RpcError: there is no answer.
        """
        connection = self._stream.socket
        try:
            connection.sendall(framed(step_messages(header, data)))
            prefix = taken(connection, PREFIX.size)
            answer = taken(connection, PREFIX.unpack(prefix)[1]) if len(prefix) == PREFIX.size else b""
        except OSError:
            prefix = answer = b""
        if len(prefix) < PREFIX.size or len(answer) < PREFIX.unpack(prefix)[1]:
            raise self._failure()
        return pb.StepStreamResponse.FromString(answer).result

    def close(self) -> None:
        """Ends it."""
        self._stream.__exit__(None, None, None)

    def _failure(self) -> Exception:
        """Raises what the call says of its end, which it must."""
        answers = list(self._stream.call)
        return AssertionError(f"the server did not end the stream in order, after {answers}")
