"""TLS: certificates that are read again when their files change."""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from optserve_server.rpc.authentication.secret_files import check_not_world_readable
from optserve_server.rpc.transport.certificate_expiry import find_earliest_expiry

WARNING_PERIOD = timedelta(days=30)
"""Before a certificate's expiry, in which the log warns of it."""

LOG_INTERVAL_S = 86400.0
"""Seconds between two such lines."""

_log = logging.getLogger(__name__)


class CertificateError(Exception):
    """A certificate cannot be used; the message says which and why."""


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files.

    Attributes:
        certificate: the server's certificate, followed by those between it and its authority.
        key: its private key.
        client_authority: certificates of the authorities that clients' must come from; None
            if clients need none.
        is_world_readable_allowed: whether every user may be able to read the key.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None
    is_world_readable_allowed: bool = False


class Certificates:
    """The certificates that new connections are made with.

    Args:
        files: where they lie.

    Attributes:
        expiry: the end of their validity.

    Raises:
        CertificateError: they cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._version = self._file_versions()
        self.expiry = datetime.max.replace(tzinfo=UTC)
        self._current = self._read_certificates()
        self._logged = -LOG_INTERVAL_S

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials of a port, which ask again for every connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._reload_certificates,
            require_client_authentication=self._files.client_authority is not None,
        )

    def log_expiry(self) -> None:
        """Logs once a day that the certificates expire within 30 days (warning), or have (error)."""
        now = time.monotonic()
        left = self.expiry - datetime.now(UTC)
        if left > WARNING_PERIOD or now < self._logged + LOG_INTERVAL_S:
            return
        self._logged = now
        facts = {"expiry": self.expiry.isoformat(), "days": left.days}
        if left.total_seconds() <= 0:
            _log.error("the certificate has expired", extra={"facts": facts})
        else:
            _log.warning("the certificate expires soon", extra={"facts": facts})

    def _reload_certificates(self) -> grpc.ServerCertificateConfiguration:
        """The certificates for a connection that begins; called by gRPC's own threads."""
        version = self._file_versions()
        if version == self._version:
            return self._current
        self._version = version
        try:
            self._current = self._read_certificates()
        except CertificateError as error:
            # A certificate without its new key, most likely, which is about to come.
            _log.error("the certificates stay as they were: %s", error)
        else:
            self._logged = -LOG_INTERVAL_S
            _log.info("certificates read again")
        return self._current

    def _read_certificates(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        try:
            if not files.is_world_readable_allowed:
                check_not_world_readable(files.key)
            pair = files.key.read_bytes(), files.certificate.read_bytes()
            # OpenSSL checks whether the key is the certificate's; gRPC would report it to the client only.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            authority = None
            if files.client_authority is not None:
                authority = files.client_authority.read_bytes()
                context.load_verify_locations(files.client_authority)
            self.expiry = find_earliest_expiry(pair[1])
        except (OSError, ValueError) as error:  # of which those of OpenSSL are
            raise CertificateError(f"cannot use {files.certificate} with {files.key}: {error}") from None
        return grpc.ssl_server_certificate_configuration([pair], authority)

    def _file_versions(self) -> tuple[object, ...]:
        paths = (self._files.certificate, self._files.key, self._files.client_authority)
        return tuple(_file_version(path) for path in paths if path is not None)


def _file_version(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode
