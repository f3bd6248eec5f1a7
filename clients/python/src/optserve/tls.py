"""TLS credentials: trusted authorities, and the client's own certificate."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import grpc

File = str | PathLike[str]


def credentials(
    authority: File | None = None, certificate: File | None = None, key: File | None = None
) -> grpc.ChannelCredentials:
    """Credentials for `optserve.connect`, from PEM files.

    Args:
        authority: certificates of the trusted authorities; gRPC's default when None.
        certificate: this client's own certificate chain, if the server requires one.
        key: the private key of that certificate.

    Raises:
        ValueError: one of certificate and key is given without the other.
        OSError: a file cannot be read.
    """
    if (certificate is None) != (key is None):
        raise ValueError("a certificate and its key go together")
    return grpc.ssl_channel_credentials(
        root_certificates=_read_file(authority),
        private_key=_read_file(key),
        certificate_chain=_read_file(certificate),
    )


def _read_file(path: File | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
