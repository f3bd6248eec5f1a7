"""The call that a stream's steps go over."""

from __future__ import annotations

from collections.abc import Iterable

from optserve import direct_call
from optserve._engine.pending import PendingStep
from optserve._transport.connection import Connection
from optserve._transport.data_channel import DataCall, QueuedDataCall
from optserve._transport.grpc_channel import QueuedCall
from optserve._transport.retry import Deadline
from optserve._transport.watchdog import Watchdog
from optserve.direct_call import DirectCall

Call = DataCall | QueuedDataCall | DirectCall | QueuedCall

FAREWELL = 0.5
"""Seconds for a server to end a call that has nothing more to send."""


class Line:
    """Opens a call when one is needed: a direct one for a step that is waited for at once.

    Args:
        connection: to the server.

    Attributes:
        watchdog: cancels it where an answer is too late.
    """

    def __init__(self, connection: Connection) -> None:
        self.watchdog = Watchdog()
        self._connection = connection
        self._call: Call | None = None
        self._alone = False

    def ready(self, alone: bool, waiting: Iterable[PendingStep]) -> Call:
        """The call, or a new one, over which is sent again what was not answered.

        Args:
            alone: whether one step goes over it at a time.
            waiting: the steps that were not answered.
        """
        if self._call is None:
            self._call, self._alone = self._opened(alone), alone
            for pending in waiting:
                if pending.messages is not None:
                    self._call.put(pending.messages)
        return self._call

    def suited(self, alone: bool) -> Call:
        """The call for a step with nothing under way; only then may another kind take its place."""
        if self._alone is not alone:
            self.drop(cancel=False)
        return self.ready(alone, ())

    def _opened(self, alone: bool) -> Call:
        """A new call; for one step at a time, one that the thread which waits for the answer drives."""
        connection = self._connection
        data = connection.data_steps(alone)
        if data is not None:
            return data
        return connection.direct_steps() if alone and direct_call.available() else connection.queued_steps()

    def drop(self, cancel: bool) -> None:
        """Ends the call, at once or when the server has nothing more to send."""
        call, self._call = self._call, None
        if call is None:
            return
        if cancel:
            call.close()
        else:
            self.watchdog.watch(Deadline(FAREWELL), call.cancel)
            call.finish()
            self.watchdog.rest()

    def __del__(self) -> None:
        if hasattr(self, "watchdog"):
            self.watchdog.close()
