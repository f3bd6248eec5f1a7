"""Composition root: makes a running server from settings."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.backend_selection import select_backend
from optserve_server.config import METRICS_PORT, ConfigError, Settings
from optserve_server.dashboard.pages import make_dashboard_pages
from optserve_server.durability.durability_manager import DurabilityManager, SnapshotPolicy
from optserve_server.durability.recovery import Recovery, RecoveryProgress
from optserve_server.operations.control_socket import ControlSocket
from optserve_server.operations.http_server import HttpServer, Page
from optserve_server.operations.operator_pages import make_operator_pages, make_recovery_pages
from optserve_server.resources.budget import Budget
from optserve_server.resources.descriptors import OPERATIONS_RESERVE, STORAGE_RESERVE
from optserve_server.resources.garbage import defer_full_collections
from optserve_server.resources.memory import memory_limit
from optserve_server.rpc.authentication.identity import Identities
from optserve_server.rpc.authentication.tokens import AccessError
from optserve_server.rpc.middleware.call_interceptor import Tracer
from optserve_server.rpc.server.server import Conditions, Server
from optserve_server.rpc.transport.listening import Listening, is_loopback
from optserve_server.rpc.transport.tls import CertificateError, CertificateFiles, Certificates
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.store import Limits
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.wire.messages.answers import encode_answer
from optserve_server.wire.specifications.spec_text import SPEC_TEXT

if TYPE_CHECKING:
    from optserve_server.operations.traces import OpenTelemetryTracer

_MEMORY_SHARE = 0.75
"""Of the machine's memory, or the container's, when no budget is set."""

_RESIDENT_SHARE = 0.75
"""Of that budget, for sessions; the rest is for their gradients and answers under way."""

_DESCRIPTORS_SHARE = 0.5
"""Of the process' limit of file descriptors, for shared memory; connections and files need the rest."""

_CONNECTIONS_SHARE = 0.25
"""The same for gRPC connections."""

_PEER_CONNECTIONS = 1024
"""gRPC connections of one peer, at most, unless a setting allows more."""

_DATA_CONNECTIONS_SHARE = 0.125
"""The same for data connections; what is left is for files and the pages for operators."""

_STORAGE_DESCRIPTORS, _OPERATIONS_DESCRIPTORS = 8, 4
"""File descriptors that are held for the journal and snapshots, and for the port for operators."""

MAX_DESCRIPTORS = 1 << 20
"""File descriptors beyond which a server needs no more, whatever the system allows."""

_SWITCH_INTERVAL_S = 0.0005
"""After which a thread that runs Python lets the event loop have its turn; Python's own is ten times that."""

_LAST_WORK_S = 0.5
"""Seconds for work in threads when everything else has ended."""

_log = logging.getLogger("optserve_server")


def make_namespaces(settings: Settings, backend: Backend) -> Namespaces:
    """Namespaces without sessions, with the server's limits.

    Raises:
        ConfigError: sessions are to be durable, and there is no data directory.
    """
    return Namespaces(backend, _make_limits(settings), make_budget(settings))


def build_server(
    settings: Settings,
    namespaces: Namespaces,
    recovered: DurabilityManager | None = None,
    tracer: Tracer | None = None,
) -> Server:
    """A server that is not listening yet.

    Raises:
        ConfigError: the tokens cannot be used.
    """
    conditions = _make_conditions(settings)
    identities = load_identities(settings, namespaces)
    return Server(namespaces, settings.threads, identities, conditions, recovered, tracer)


def check_settings(settings: Settings) -> None:
    """Checks that settings fit each other and this process' limits.

    Raises:
        ConfigError: they do not.
    """
    find_certificate_files(settings)
    _make_limits(settings)
    _make_conditions(settings)


def _make_conditions(settings: Settings) -> Conditions:
    return Conditions(
        # The service refuses with details; gRPC refuses what comes beyond that.
        max_concurrent_rpcs=2 * settings.max_concurrent_rpcs,
        max_calls_per_connection=settings.max_calls_per_connection,
        max_connections=(most := _max_connections(settings)),
        max_connections_per_peer=settings.max_connections_per_peer or min(most // 2, _PEER_CONNECTIONS),
        max_data_connections=int(_descriptor_limit() * _DATA_CONNECTIONS_SHARE),
        handshake_seconds=settings.handshake_seconds,
        connection_idle_seconds=settings.connection_idle_seconds,
        stream_idle_seconds=settings.stream_idle_seconds,
        session_lease_seconds=settings.session_lease_seconds,
        reflection=settings.reflection,
        shared_memory=settings.shared_memory,
        max_shared_memory_descriptors=_shared_memory_descriptor_limit(settings),
        shared_memory_idle_seconds=settings.shared_memory_idle_seconds,
    )


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight.

    Raises:
        ConfigError: settings contradict each other, or a file that they name cannot be used.
        RuntimeError: an address cannot be bound, or the backend is not there.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    raise_descriptor_limit()
    STORAGE_RESERVE.hold(_STORAGE_DESCRIPTORS)
    OPERATIONS_RESERVE.hold(_OPERATIONS_DESCRIPTORS)
    listening = build_listening(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    backend = select_backend(settings.backend)
    tracer = _make_tracer(settings)
    progress = RecoveryProgress()
    pages = HttpServer(make_recovery_pages(progress))
    metrics_port = await _start_http_server(pages, settings)
    namespaces = make_namespaces(settings, backend)
    recovered = None
    if settings.data_dir:
        _log.info("recovering", extra={"facts": {"data_dir": settings.data_dir}})
        # In a thread: the pages say meanwhile how far it is.
        recovered = await asyncio.to_thread(_recover_sessions, settings, namespaces, progress)
    server = build_server(settings, namespaces, recovered, tracer)
    pages.pages = _make_pages(server, settings)
    port = await server.start(listening)
    control = None if server.durability_manager is None else ControlSocket(server.durability_manager)
    if control is not None:
        control.start()
    _report_listening(settings, backend, port, metrics_port)
    defer_full_collections()
    await stop.wait()
    _log.info("shutting down")
    if control is not None:
        await control.stop()
    # Operators see until the end that the server takes no more calls.
    await server.stop(settings.grace_seconds)
    await pages.stop()
    if tracer is not None:
        tracer.close()
    await _end_busy_process()
    _log.info("stopped")


async def _end_busy_process() -> None:
    """Ends the process if a thread is still at work; else does nothing.

    Python waits for its threads at exit, and cannot interrupt one: the initial values of a large
    session may take minutes. What was acknowledged is durable, and nothing else is left to do.
    """
    until = time.monotonic() + _LAST_WORK_S
    ending = asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor())
    while busy := _list_worker_threads():
        if time.monotonic() > until:
            _log.warning("stopped with work in threads", extra={"facts": {"threads": busy}})
            logging.shutdown()
            os._exit(0)
        await asyncio.sleep(_LAST_WORK_S / 10)
    await ending


def _list_worker_threads() -> list[str]:
    """Names of the threads of the pools that are still at work; idle ones have ended by themselves."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(("step", "create", "storage", "asyncio"))]


def _make_tracer(settings: Settings) -> OpenTelemetryTracer | None:
    if not settings.traces:
        return None
    try:
        from optserve_server.operations.traces import OpenTelemetryTracer
    except ImportError as error:
        raise ConfigError(f"traces need the extra 'otel', optserve-server[otel]: {error}") from None
    return OpenTelemetryTracer()


def _make_pages(server: Server, settings: Settings) -> dict[str, Page]:
    """The pages at the port for operators."""
    pages = make_operator_pages(server)
    if settings.dashboard == "yes" or (settings.dashboard == "auto" and is_loopback(settings.metrics_host)):
        pages |= make_dashboard_pages(server)
    return pages


async def _start_http_server(pages: HttpServer, settings: Settings) -> int | None:
    """Starts the pages for operators; returns their port, or None if they are off."""
    if settings.metrics_port == "off":
        return None
    if settings.metrics_port != "auto":
        return await pages.start(settings.metrics_host, settings.metrics_port)
    try:
        return await pages.start(settings.metrics_host, METRICS_PORT)
    except OSError as error:
        # The port was not chosen explicitly, and two servers on one machine are no mistake.
        _log.warning("no metrics: %s", error)
        return None


def build_listening(settings: Settings) -> Listening:
    """Where the settings say to listen.

    Raises:
        ConfigError: nowhere, beyond loopback without TLS, or with certificates that cannot be used.
    """
    files = find_certificate_files(settings)
    return Listening(
        settings.host if settings.tcp else None,
        settings.port,
        settings.unix_socket or None,
        None if files is None else load_certificates(files),
        _data_port(settings),
    )


def find_certificate_files(settings: Settings) -> CertificateFiles | None:
    """The files of the server's certificate; None if it listens without TLS, where that is allowed.

    Raises:
        ConfigError: it listens nowhere, or beyond loopback without TLS, or a file is not named.
    """
    if not settings.tcp and not settings.unix_socket:
        raise ConfigError("tcp is no and unix_socket is not set, so there is nowhere to listen")
    if bool(settings.tls_certificate) != bool(settings.tls_key) or (
        settings.tls_client_ca and not settings.tls_key
    ):
        raise ConfigError("TLS needs tls_certificate and tls_key")
    files = None
    if settings.tls_certificate:
        authority = Path(settings.tls_client_ca) if settings.tls_client_ca else None
        files = CertificateFiles(
            Path(settings.tls_certificate),
            Path(settings.tls_key),
            authority,
            is_world_readable_allowed=settings.allow_world_readable_secrets,
        )
    allowed = settings.allow_plaintext_beyond_loopback
    if settings.tcp and files is None and not allowed and not is_loopback(settings.host):
        raise ConfigError(
            f"host is {settings.host!r}, where others can listen in, and there is no TLS. State"
            " tls_certificate and tls_key, or, where something else protects the connections,"
            " --allow-plaintext-beyond-loopback=yes"
        )
    return files


def _data_port(settings: Settings) -> int | None:
    if settings.data_port == "off":
        return None
    return 0 if settings.data_port == "auto" else settings.data_port


def load_certificates(files: CertificateFiles) -> Certificates:
    """Certificates from files.

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        return Certificates(files)
    except CertificateError as error:
        raise ConfigError(str(error)) from None


def load_identities(settings: Settings, namespaces: Namespaces) -> Identities:
    """Who may call.

    Raises:
        ConfigError: no client could, or the file of tokens is wrong.
    """
    path = Path(settings.tokens_file) if settings.tokens_file else None
    wanted = settings.allow_unauthenticated
    if wanted == "no" and path is None:
        raise ConfigError("allow_unauthenticated is no and tokens_file is not set, so nobody could call")
    try:
        anybody = wanted == "yes" or (wanted == "auto" and path is None)
        return Identities(
            namespaces,
            path,
            allow_unauthenticated=anybody,
            allow_world_readable=settings.allow_world_readable_secrets,
        )
    except AccessError as error:
        raise ConfigError(str(error)) from None


def _recover_sessions(
    settings: Settings, namespaces: Namespaces, progress: RecoveryProgress
) -> DurabilityManager:
    """Restores the sessions of the data directory.

    Raises:
        DirectoryError: another server uses it, or a file that all sessions depend on is missing.
        OSError: it cannot be used.
    """
    policy = SnapshotPolicy(
        generations=settings.snapshot_generations,
        journal_bytes=settings.journal_bytes,
        # Whole files are freed, so there have to be several.
        segment_bytes=min(64 << 20, settings.journal_bytes // 4),
    )
    root = Path(settings.data_dir)
    return Recovery(root, namespaces, SPEC_TEXT, encode_answer, policy, progress=progress).run()


def _make_limits(settings: Settings) -> Limits:
    return Limits(
        durability=_default_durability(settings),
        durable=bool(settings.data_dir),
        max_sessions=settings.max_sessions,
        max_session_bytes=settings.max_session_bytes,
        max_tensors=settings.max_tensors,
        max_tensor_rank=settings.max_tensor_rank,
        max_message_bytes=settings.max_message_bytes,
    )


def _default_durability(settings: Settings) -> DurabilityMode:
    """Durability of sessions that state none.

    Raises:
        ConfigError: it needs a data directory, and there is none.
    """
    if settings.durability == "auto":
        return DurabilityMode.JOURNAL if settings.data_dir else DurabilityMode.EPHEMERAL
    if settings.durability != "ephemeral" and not settings.data_dir:
        raise ConfigError(
            f"durability is {settings.durability!r}, which needs data_dir; set data_dir, or durability to"
            " 'ephemeral'"
        )
    return DurabilityMode(settings.durability.upper())


def raise_descriptor_limit() -> None:
    """Lets the process open as many files as the system allows it; 1024, a usual soft limit, are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shared_memory_descriptor_limit(settings: Settings) -> int:
    """File descriptors that shared memory may hold.

    Raises:
        ConfigError: they are more than the process can spare.
    """
    stated = settings.max_shared_memory_descriptors
    return _share_of_descriptors("max_shared_memory_descriptors", stated, _DESCRIPTORS_SHARE)


def _descriptor_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _share_of_descriptors(name: str, stated: int, share: float) -> int:
    """What a setting allows: the stated number, or the share of all descriptors if that is 0.

    Raises:
        ConfigError: it is more than the share.
    """
    limit = _descriptor_limit()
    most = int(limit * share)
    if stated > most:
        raise ConfigError(
            f"{name} is {stated}, but must be at most {most}: {share:.0%} of the {limit} file descriptors"
            " that the process may open (RLIMIT_NOFILE)"
        )
    return stated or most


def _max_connections(settings: Settings) -> int:
    """Connections for gRPC that the server may hold.

    Raises:
        ConfigError: they are more than the process can spare.
    """
    return _share_of_descriptors("max_connections", settings.max_connections, _CONNECTIONS_SHARE)


def make_budget(settings: Settings) -> Budget:
    """Limits of what all sessions and calls may take together."""
    memory = settings.max_memory_bytes or int(memory_limit() * _MEMORY_SHARE)
    return Budget(
        {
            "max_sessions": settings.max_sessions,
            "max_memory_bytes": memory,
            "max_resident_bytes": int(memory * _RESIDENT_SHARE),
            "max_bytes_in_flight": settings.max_bytes_in_flight,
            "max_concurrent_rpcs": settings.max_concurrent_rpcs,
        }
    )


def _report_listening(settings: Settings, backend: Backend, port: int, metrics_port: int | None) -> None:
    facts = {
        "host": settings.host if settings.tcp else None,
        "port": port,
        "metrics_port": metrics_port,
        "unix_socket": settings.unix_socket or None,
        "tls": bool(settings.tls_certificate),
        "client_certificates": bool(settings.tls_client_ca),
        "tokens": bool(settings.tokens_file),
        "data_dir": settings.data_dir or None,
        "backend": backend.name,
        "device": backend.device,
    }
    _log.info("listening", extra={"facts": facts})
    if settings.port_file:
        # Written beside and renamed, so that no reader sees half a number.
        path = Path(settings.port_file)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(f"{port}\n", encoding="ascii")
        beside.replace(path)
