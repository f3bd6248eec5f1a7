"""Every vector file is a message of proto/optserve/conformance/v1/suite.proto, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from clients.python.conformance.stubs.suite_pb2 import VectorFile
from tests.conformance import corpus

FILES = sorted(corpus.VECTORS.rglob("*.json"))


def plain(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=[f"{p.parent.name}-{p.stem}" for p in FILES])
def test_vectors_are_of_the_schema(path: Path) -> None:
    """An unknown field is an error of the parser; what is returned is what was read."""
    message = json_format.ParseDict(plain(path), VectorFile())
    back = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert numeric(back) == numeric(plain(path))


def numeric(tree: Any) -> Any:
    """The same with 64-bit integers, which the mapping writes as text, as numbers; empty lists are unset."""
    if isinstance(tree, dict):
        return {key: numeric(value) for key, value in tree.items() if value != []}
    if isinstance(tree, list):
        return [numeric(item) for item in tree]
    return float(tree) if isinstance(tree, str) and tree.lstrip("-").isdigit() else tree


def test_an_unknown_field_is_noticed() -> None:
    content = plain(FILES[0])
    content["cases"][0]["expect"] = {}
    with pytest.raises(json_format.ParseError, match="expect"):
        json_format.ParseDict(content, VectorFile())
