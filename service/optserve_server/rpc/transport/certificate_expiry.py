"""End of a certificate's validity."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17


def find_earliest_expiry(chain: bytes) -> datetime:
    """The earliest end of validity of the certificates of a PEM file (RFC 5280, section 4.1.2.5).

    Raises:
        ValueError: there is no certificate, or one cannot be read.
    """
    found = [_parse_not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(chain.decode("ascii"))]
    if not found:
        raise ValueError("there is no certificate")
    return min(found)


def _parse_not_after(certificate: bytes) -> datetime:
    (_, signed), *_ = _elements(next(_elements(certificate))[1])
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _, _, _, validity, *_ = fields  # serial number, algorithm, issuer, validity
    _, (tag, text) = _elements(validity)
    year = "%y" if tag == _UTC_TIME else "%Y"
    return datetime.strptime(text.decode("ascii"), f"{year}%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element of DER."""
    at = 0
    while at + 2 <= len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        yield tag, data[at : at + length]
        at += length
