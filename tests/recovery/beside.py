"""Steps over a data connection, by the contract's own messages."""

from __future__ import annotations

import queue

from optserve.data_connection import DataConnection
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, step_messages

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
        self._over_call = queue.SimpleQueue[pb.StepStreamRequest | None]()
        self._call = client.sessions.StepStream(iter(self._over_call.get, None), timeout=SECONDS)
        self._ask(b"")
        offer = next(self._call).data_connection
        try:
            self._connection = DataConnection("127.0.0.1", offer)
        except OSError as lost:
            raise self._failure() from lost
        self._ask(offer.ticket)

    def step(self, header: pb.StepHeader, data: bytes) -> pb.StepResult:
        """Takes a step.

        Raises:
            grpc.RpcError: there is no answer.
        """
        try:
            self._connection.send(message.SerializeToString() for message in step_messages(header, data))
            answer = self._connection.receive()
        except OSError:
            answer = None
        if answer is None:
            raise self._failure()
        return pb.StepStreamResponse.FromString(bytes(answer)).result

    def close(self) -> None:
        """Ends it."""
        self._over_call.put(None)
        self._call.cancel()
        self._connection.close()

    def _ask(self, ticket: bytes) -> None:
        request = pb.DataConnectionRequest(ticket=ticket)
        self._over_call.put(pb.StepStreamRequest(data_connection=request))

    def _failure(self) -> Exception:
        """Raises what the call says of its end, which it must."""
        self._over_call.put(None)
        for _ in self._call:
            return AssertionError("an answer came over the call, which has a data connection")
        return AssertionError("the server ended a stream well that had not ended")
