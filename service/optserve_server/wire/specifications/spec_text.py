"""A specification as text: JSON as protobuf maps it, which readers of a snapshot understand."""

from __future__ import annotations

from google.protobuf import json_format

from optserve.v1.session_pb2 import SessionSpec as SessionSpecMessage
from optserve_server.spec.session_spec import SessionSpec
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.wire.specifications.specs import session_spec_from, session_spec_to


def _to_json(spec: SessionSpec) -> str:
    message = session_spec_to(spec)
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def _from_json(text: str) -> SessionSpec:
    try:
        message = json_format.Parse(text, SessionSpecMessage(), ignore_unknown_fields=False)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error
    return session_spec_from(message)


SPEC_TEXT = SpecCodec(_to_json, _from_json)
"""Writes and reads specifications."""
