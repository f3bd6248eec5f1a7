"""Verification of a certificate chain."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path


def verify_chain(certificate: Path, key: Path) -> None:
    """Makes a TLS handshake in memory, with a client that trusts the last certificate of the chain.

    So each certificate must be signed by the next one, all must be valid now, and the first one must be a
    server's. Whether clients trust the last one, or its issuer, is known to them alone.

    Args:
        certificate: PEM file of the chain, the server's certificate first.
        key: PEM file of its private key.

    Raises:
        ValueError: the chain is wrong; the message says what is.
        OSError: a file cannot be read or used.
    """
    chain = certificate.read_text(encoding="ascii")
    last = chain[chain.rindex("-----BEGIN CERTIFICATE-----") :]
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(certificate, key)
    connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connecting.check_hostname = False
    connecting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    connecting.load_verify_locations(cadata=last)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        connecting.wrap_bio(to_client, to_server),
        accepting.wrap_bio(to_server, to_client, server_side=True),
    ]
    try:
        for _ in range(4):  # flights of a handshake
            for side in sides:
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"{certificate}: {error.verify_message}") from None
