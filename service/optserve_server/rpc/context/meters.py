"""Counters for the metrics: plain numbers, so that counting costs a step next to nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

BUCKETS = 64
"""Latencies are counted by the length of their nanoseconds in bits: up to 2**63 ns, three centuries."""


class Latency:
    """Histogram of durations.

    Attributes:
        add_duration: counts one, in nanoseconds. It only appends, because every step adds several;
            `count_new` sorts them in later.
    """

    __slots__ = ("_counts", "_new", "_total", "add_duration")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._total = 0
        self._new: list[int] = []
        self.add_duration = self._new.append

    def count_new(self) -> tuple[Sequence[int], int]:
        """Counts what was added.

        Returns:
            How many took less than 2**i and at least 2**(i-1) nanoseconds; nanoseconds in all.
        """
        for length, count in Counter(map(int.bit_length, self._new)).items():
            self._counts[length] += count
        self._total += sum(self._new)
        self._new.clear()
        return self._counts, self._total


class Meters:
    """Counters of one server; changed only on its event loop.

    Attributes:
        receive: from a streamed step's header to the last byte of its gradient.
        queue: waiting for the session's turn.
        record: making a step durable before it is applied, in a journalled session.
        compute: what is done with a session in its turn; a step above all.
        respond: sending what is left of a streamed step's answer when the step is done.
        calls: how long calls took, by method.
        codes: how calls ended, by method and reason.
        bytes_received: of messages.
        bytes_sent: of messages.
        events_dropped: of watchers that read slowly.
        sessions_expired: by outcome: deleted or evicted.
    """

    def __init__(self) -> None:
        self.receive, self.queue, self.record = Latency(), Latency(), Latency()
        self.compute, self.respond = Latency(), Latency()
        self.calls: defaultdict[str, Latency] = defaultdict(Latency)
        self.codes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.bytes_received = 0
        self.bytes_sent = 0
        self.events_dropped = 0
        self.sessions_expired: defaultdict[str, int] = defaultdict(int)

    def count_new(self) -> None:
        """Counts the durations that were added; to be called now and then."""
        for latency in (self.receive, self.queue, self.record, self.compute, self.respond):
            latency.count_new()
        for latency in self.calls.values():
            latency.count_new()

    def end_call(self, method: str, code: str, nanoseconds: int) -> None:
        """Counts a call."""
        self.calls[method].add_duration(nanoseconds)
        self.codes[method, code] += 1
