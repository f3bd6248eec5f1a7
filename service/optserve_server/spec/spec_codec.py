"""Specifications as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optserve_server.spec.session_spec import SessionSpec


@dataclass(frozen=True)
class SpecCodec:
    """A specification as text and back; the layers below the wire know no messages."""

    encode: Callable[[SessionSpec], str]
    decode: Callable[[str], SessionSpec]
