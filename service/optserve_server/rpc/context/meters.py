"""Counters for the metrics: plain numbers, so that counting costs a step next to nothing."""

from __future__ import annotations

from collections import defaultdict

BUCKETS = 64
"""Latencies are counted by the length of their nanoseconds in bits: up to 2**63 ns, three centuries."""


class Latency:
    """Histogram of durations.

    Attributes:
        counts: how many took less than 2**i and at least 2**(i-1) nanoseconds.
        total: nanoseconds in all.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.total = 0

    def add_duration(self, nanoseconds: int) -> None:
        """Counts one."""
        self.counts[nanoseconds.bit_length()] += 1
        self.total += nanoseconds


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

    def record_work(self, queued: int, worked: int) -> None:
        """Counts work on a session: nanoseconds until its turn, and in its turn."""
        queue, compute = self.queue, self.compute
        queue.counts[queued.bit_length()] += 1
        queue.total += queued
        compute.counts[worked.bit_length()] += 1
        compute.total += worked

    def end_call(self, method: str, code: str, nanoseconds: int) -> None:
        """Counts a call."""
        self.calls[method].add_duration(nanoseconds)
        self.codes[method, code] += 1
