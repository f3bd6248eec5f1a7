"""What connections with threads and with coroutines have in common: settings, and what errors mean."""

from __future__ import annotations

from typing import Any, Literal

import grpc

from optserve import coercion, errors
from optserve._codec.chunks import CHUNK_BYTES
from optserve._transport.data_connection import host_and_port
from optserve._transport.diagnosis import diagnose_connection
from optserve._transport.locality import is_local
from optserve._transport.retry import Deadline, Retry
from optserve._transport.service_config import make_service_config
from optserve.progress import ProgressOption

Metadata = tuple[tuple[str, str | bytes], ...]

MESSAGE_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # gRPC's own retries stop silently for calls larger than this.
    ("grpc.per_rpc_retry_buffer_size", 4 * CHUNK_BYTES),
    # More often than balancers forget a silent connection (350 s), and less often than
    # servers suffer by default (300 s).
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Soon, because calls are made again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection of one's own for every client.
    ("grpc.use_local_subchannel_pool", 1),
)


class BaseConnection:
    """Settings of a connection, and of every call on it; see `optserve.connect`.

    Args:
        target: ``host:port``.
        timeout: seconds that a call may take, with all its attempts; None for no limit.
        token: bearer token sent with every call.
        credentials: of the channel; None for a plain connection.
        retry: how often a call is made again; ``"grpc"`` has gRPC repeat reads.
        progress: whether long transfers show a bar; None lets them decide.

    Attributes:
        target, timeout, progress: as given.
        retry: how often this client makes a call again.
        metadata: sent with every call.
        options: arguments of the channel.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it.
    """

    def __init__(
        self,
        target: str,
        timeout: float | None,
        token: str | None,
        credentials: grpc.ChannelCredentials | None,
        retry: Retry | Literal["grpc"] | None,
        progress: ProgressOption,
    ) -> None:
        self.target = coercion.to_server_address(target, "target")
        self.timeout = coercion.to_seconds(timeout, "timeout")
        token = coercion.to_optional(coercion.to_string, token, "token")
        if retry not in (None, "grpc") and not isinstance(retry, Retry):
            raise TypeError(coercion.error_text("retry", retry, 'a Retry, "grpc" or None'))
        self.retry = Retry(attempts=1) if retry == "grpc" else retry or Retry()
        self.progress = progress
        self._credentials = credentials
        self.metadata: Metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.options: tuple[tuple[str, Any], ...] = (
            *OPTIONS,
            # A proxy elsewhere cannot reach a loopback address of this machine.
            ("grpc.enable_http_proxy", int(not is_local(self.target))),
            ("grpc.service_config", make_service_config(retries=retry == "grpc")),
        )

    def add_error_context(self, error: errors.OptserveError, attempts: int, deadline: Deadline) -> None:
        """Adds to an error that ends a call how long and how often the call was tried, and why it may be.

        For the latter it tries to connect, which takes up to two seconds.
        """
        if not isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
            return
        seconds = deadline.seconds - deadline.remaining()
        if attempts > 1:
            error.message += f" (tried {attempts} times in {seconds:.3g} s)"
        cause = ""
        if isinstance(error, errors.Unavailable) and error.reason is None:
            proxied = not is_local(self.target)
            address = host_and_port(self.target)
            cause = diagnose_connection(address, is_tls=self._credentials is not None, uses_proxy=proxied)
        if cause:
            error.message += f": {cause}"
