"""Metrics for Prometheus, collected from plain counters on each scrape."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from optserve_server import __version__
from optserve_server.coordination.membership import Member
from optserve_server.durability.recovery import RecoveryProgress
from optserve_server.resources.budget import Kind
from optserve_server.resources.descriptors import count_descriptors
from optserve_server.resources.memory import resident_bytes
from optserve_server.rpc.context.meters import Latency
from optserve_server.rpc.server.server import Server
from optserve_server.sessions.session import Session
from optserve_server.state.step_result import StepOutcome

FIRST_BUCKET, LAST_BUCKET = 12, 36
"""Bounds of the histograms: 2**12 ns, about 4 us, to 2**36 ns, about 69 s."""

MAX_WORKER_SERIES = 1024
"""Members that have series of their own; further ones are only counted."""

WORKER_METRICS: dict[str, tuple[str, Callable[[Session, Member], float]]] = {
    "contributions": ("Contributions in the member's epoch", lambda _, member: member.contributions),
    "steps_behind": (
        "Steps of the session since the last contribution",
        lambda session, member: session.step - member.last_step,
    ),
    "staleness": ("Staleness of the last contribution, in steps", lambda _, member: member.staleness),
    "seconds_between_contributions": (
        "Moving average of the seconds between two contributions",
        lambda _, member: member.interval,
    ),
    "waits": ("Whether a contribution waits for other members", lambda _, member: float(member.waiting > 0)),
}
"""By the last part of its name: what a metric of a member says."""


class RecoveryCollector(Collector):
    """Gathers the metrics of a server that recovers its sessions.

    Args:
        progress: of the recovery.
    """

    def __init__(self, progress: RecoveryProgress) -> None:
        self._progress = progress

    def collect(self) -> Iterator[Metric]:
        """All metrics at this moment."""
        yield GaugeMetricFamily("optserve_ready", "Whether calls are taken.", 0)
        yield GaugeMetricFamily(
            "optserve_recovery_examined_sessions",
            "Sessions that were restored or found damaged so far; only while the server recovers.",
            self._progress.examined,
        )
        yield GaugeMetricFamily(
            "optserve_recovery_known_sessions",
            "Sessions that are to be restored; only while the server recovers.",
            self._progress.known,
        )
        yield GaugeMetricFamily("optserve_process_memory_bytes", "Resident memory.", resident_bytes())


class ServerCollector(Collector):
    """Gathers the metrics of one server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """All metrics at this moment."""
        yield from self._call_metrics()
        yield from self._step_metrics()
        yield from self._worker_metrics()
        yield from self._usage_metrics()
        yield from self._disk_metrics()
        yield from self._process_metrics()

    def _call_metrics(self) -> Iterator[Metric]:
        meters = self._server.meters
        ended = CounterMetricFamily("optserve_calls", "Calls that ended.", labels=["method", "code"])
        for (method, code), count in meters.codes.items():
            ended.add_metric([method, code], count)
        yield ended
        seconds = HistogramMetricFamily(
            "optserve_call_seconds", "How long calls took; streams as a whole.", labels=["method"]
        )
        for method, latency in meters.calls.items():
            seconds.add_metric([method], *cumulative_buckets(latency))
        yield seconds
        yield GaugeMetricFamily(
            "optserve_calls_in_flight", "Calls being answered.", self._server.calls_in_flight
        )
        yield GaugeMetricFamily(
            "optserve_calls_waiting",
            "Calls in flight that wait for others: members, a later step, an event, their turn to create.",
            self._server.calls_waiting,
        )
        yield CounterMetricFamily(
            "optserve_calls_cut",
            "Calls that were ended when a shutdown's grace was over.",
            self._server.calls_cut,
        )
        yield GaugeMetricFamily(
            "optserve_health_calls",
            "Calls of the health service, which are not in flight.",
            self._server.health_calls,
        )
        for way, count in (("received", meters.bytes_received), ("sent", meters.bytes_sent)):
            yield CounterMetricFamily(f"optserve_message_bytes_{way}", f"Bytes of messages {way}.", count)

    def _step_metrics(self) -> Iterator[Metric]:
        steps = CounterMetricFamily(
            "optserve_steps", "Steps, by what became of them.", labels=["outcome", "namespace"]
        )
        for namespace in self._server.namespaces:
            for outcome in StepOutcome:
                steps.add_metric(
                    [outcome.value, namespace.name], namespace.store.count_step_outcomes()[outcome]
                )
        yield steps
        meters = self._server.meters
        phases = HistogramMetricFamily(
            "optserve_step_phase_seconds", "Duration of each phase of a step.", labels=["phase"]
        )
        for phase in ("receive", "queue", "record", "compute", "respond"):
            phases.add_metric([phase], *cumulative_buckets(getattr(meters, phase)))
        yield phases
        yield CounterMetricFamily(
            "optserve_events_dropped", "Events that slow watchers missed.", meters.events_dropped
        )
        expired = CounterMetricFamily(
            "optserve_sessions_expired", "Sessions whose lease ended.", labels=["action"]
        )
        for action, count in meters.sessions_expired.items():
            expired.add_metric([action], count)
        yield expired

    def _worker_metrics(self) -> Iterator[Metric]:
        """Members of sessions: counts of all, and series of the first MAX_WORKER_SERIES."""
        states = GaugeMetricFamily(
            "optserve_workers", "Members of sessions that are in memory.", labels=["state", "namespace"]
        )
        labels = ["session", "worker", "namespace"]
        series = [
            GaugeMetricFamily(f"optserve_worker_{name}", f"{text}, by member.", labels=labels)
            for name, (text, _) in WORKER_METRICS.items()
        ]
        listed = 0
        for namespace in self._server.namespaces:
            waiting = active = 0
            for session in namespace.store.list_sessions():
                for member in tuple(session.coordinator.membership.active.values()):
                    waiting += bool(member.waiting)
                    active += not member.waiting
                    if listed == MAX_WORKER_SERIES:
                        continue
                    listed += 1
                    for family, (_, value_of) in zip(series, WORKER_METRICS.values(), strict=True):
                        of = [session.id, member.worker, namespace.name]
                        family.add_metric(of, value_of(session, member))
            states.add_metric(["ACTIVE", namespace.name], active)
            states.add_metric(["WAITING", namespace.name], waiting)
        yield states
        yield from series

    def _usage_metrics(self) -> Iterator[Metric]:
        budget = self._server.namespaces.budget
        for name, limit in budget.limits.items():
            yield GaugeMetricFamily(f"optserve_limit_{name}", "A limit of the server; 0 for none.", limit)
        for kind in (Kind.SESSIONS, Kind.RESIDENT, Kind.IN_FLIGHT):
            gauge = GaugeMetricFamily(
                f"optserve_held_{kind.value}", "What is held, by namespace.", labels=["namespace"]
            )
            for namespace in self._server.namespaces:
                gauge.add_metric([namespace.name], namespace.budget.usage(kind))
            yield gauge
        regions = self._server.regions
        yield GaugeMetricFamily("optserve_shared_memory_regions", "Regions of shared memory.", len(regions))
        yield GaugeMetricFamily(
            "optserve_shared_memory_descriptors",
            "File descriptors that shared memory holds.",
            regions.descriptor_count,
        )
        yield GaugeMetricFamily(
            "optserve_limit_max_shared_memory_descriptors", "A limit of the server.", regions.max_descriptors
        )
        refused = CounterMetricFamily(
            "optserve_refusals", "Requests rejected by a memory limit, by scope.", labels=["limit_of"]
        )
        refused.add_metric(["server"], budget.refused)
        refused.add_metric(["namespace"], sum(n.budget.refused for n in self._server.namespaces))
        yield refused

    def _disk_metrics(self) -> Iterator[Metric]:
        durability_manager = self._server.durability_manager
        if durability_manager is None:
            return
        damaged = GaugeMetricFamily(
            "optserve_sessions_damaged",
            "Sessions that are in quarantine, or whose folder is missing.",
            labels=["namespace"],
        )
        for namespace in self._server.namespaces:
            damaged.add_metric([namespace.name], namespace.store.damaged_count)
        yield damaged
        recovery = durability_manager.recovery
        recovered = GaugeMetricFamily(
            "optserve_recovery_sessions", "Sessions at the start, by what became of them.", labels=["outcome"]
        )
        recovered.add_metric(["restored"], recovery.restored)
        recovered.add_metric(["damaged"], recovery.damaged)
        yield recovered
        yield GaugeMetricFamily(
            "optserve_recovery_seconds", "Seconds that recovery took at the start.", recovery.seconds
        )
        disk = os.statvfs(durability_manager.catalog.root)
        yield GaugeMetricFamily(
            "optserve_data_free_bytes",
            "Free bytes of the file system of the data directory.",
            disk.f_bavail * disk.f_frsize,
        )
        yield GaugeMetricFamily(
            "optserve_data_size_bytes", "Bytes of that file system.", disk.f_blocks * disk.f_frsize
        )
        journal, name = durability_manager.journal, "optserve_journal"
        yield CounterMetricFamily(f"{name}_records", "Changes that the journal has taken.", journal.records)
        yield CounterMetricFamily(f"{name}_syncs", "Groups of them that were synced.", journal.syncs)
        yield CounterMetricFamily(
            f"{name}_sync_seconds", "Seconds that these syncs took.", journal.sync_seconds
        )
        yield GaugeMetricFamily(f"{name}_bytes", "Length of the journal's files.", journal.byte_count)
        yield CounterMetricFamily("optserve_snapshots", "Snapshots written.", durability_manager.saves)
        yield CounterMetricFamily(
            "optserve_snapshots_failed",
            "Snapshots that could not be written.",
            durability_manager.failed_saves,
        )

    def _process_metrics(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("optserve_process_memory_bytes", "Resident memory.", resident_bytes())
        yield GaugeMetricFamily(
            "optserve_event_loop_lag_seconds",
            "Greatest lateness of the event loop within the last minute.",
            self._server.loop_lag.worst,
        )
        if self._server.certificates is not None:
            yield GaugeMetricFamily(
                "optserve_certificate_expiry_timestamp_seconds",
                "End of the TLS certificate's validity, in Unix time.",
                self._server.certificates.expiry.timestamp(),
            )
        descriptors = count_descriptors(self._server.port)
        yield GaugeMetricFamily("optserve_open_descriptors", "Open file descriptors.", descriptors.total)
        yield GaugeMetricFamily("optserve_max_descriptors", "RLIMIT_NOFILE.", descriptors.limit)
        connections = GaugeMetricFamily("optserve_connections", "Open connections.", labels=["kind"])
        connections.add_metric(["grpc"], descriptors.connections)
        connections.add_metric(["data"], self._server.data_connections.count)
        yield connections
        limits = self._server.peer_limits
        closed = CounterMetricFamily(
            "optserve_connections_closed",
            "gRPC connections that were closed because their peer exceeded a limit.",
            labels=["limit"],
        )
        for limit, count in limits.closed.items():
            closed.add_metric([limit], count)
        yield closed
        yield GaugeMetricFamily(
            "optserve_blocked_peers", "Peers whose new connections are dropped.", limits.blocked_count
        )
        yield GaugeMetricFamily("optserve_ready", "Whether calls are taken.", int(self._server.ready))
        backend = self._server.namespaces.backend
        info = GaugeMetricFamily("optserve_build_info", "Always 1.", labels=["version", "backend", "device"])
        info.add_metric([__version__, backend.name, backend.device], 1)
        yield info


def cumulative_buckets(latency: Latency) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets in seconds, and the sum."""
    buckets: list[tuple[str, float]] = []
    counts, total = latency.count_new()
    below = sum(counts[:FIRST_BUCKET])
    for length in range(FIRST_BUCKET, LAST_BUCKET + 1):
        below += counts[length]
        buckets.append((f"{2**length / 1e9:.9g}", below))
    buckets.append(("+Inf", sum(counts)))
    return buckets, total / 1e9
