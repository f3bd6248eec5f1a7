"""The payload of a step's record in the journal."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from optserve_server.spec.override import Override
from optserve_server.state.session_change import ChangeKind
from optserve_server.state.staging import Staging
from optserve_server.state.step_result import StepOptions
from optserve_server.storage.files import Piece
from optserve_server.storage.record_payload import dumps, pack_text

_string = functools.lru_cache(maxsize=1024)(dumps)
_OPTIONS = tuple(field.name for field in dataclasses.fields(StepOptions) if field.name != "member")


def encode_step_record(
    staging: Staging, options: StepOptions, kind: ChangeKind = ChangeKind.STEP, more: str = ""
) -> list[Piece]:
    """The payload of a step's record.

    Args:
        staging: the gradient.
        options: what the step asks for.
        kind: what the change is.
        more: further facts, as JSON that ends with a comma.
    """
    if staging.sparse:
        facts, buffers = describe_gradient(staging)
        text = dumps(facts)
    else:
        buffers = [staging.data] if staging.byte_count else []
        if not staging.described:
            staging.described = dumps(describe_gradient(staging)[0])
        text = staging.described
    asked = ",".join([f'"{name}":{_encode_option(getattr(options, name))}' for name in _OPTIONS])
    return pack_text(f'{{"kind":"{kind}",{more}"options":{{{asked}}},{text[1:]}', buffers)


def _encode_option(value: object) -> str:
    """JSON of one option. The standard library takes ten times as long to begin with."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return dumps([dataclasses.astuple(override) for override in value]) if value else "[]"
    return _string(value) if isinstance(value, str) else repr(value)


def describe_gradient(staging: Staging) -> tuple[dict[str, Any], list[Piece]]:
    """Describes the sent gradient as facts and buffers; replay sums sparse rows again."""
    sparse = {rows.name for rows in staging.sparse}
    dense = [tensor for tensor in staging.tensors if tensor.entry.name not in sparse]
    facts = {
        "tensors": [(tensor.entry.name, tensor.dtype.name) for tensor in dense],
        "rows": [
            (rows.name, rows.indices.dtype.name, rows.values.dtype.name, rows.values.shape)
            for rows in staging.sparse
        ],
    }
    if not sparse:
        return facts, [staging.data] if staging.byte_count else []
    buffers: list[Piece] = [staging.array(tensor).view(np.uint8).data for tensor in dense]
    for rows in staging.sparse:
        buffers += [rows.indices.tobytes(), rows.values.tobytes()]
    return facts, [b"".join(buffers)]


def decode_options(facts: Mapping[str, Any]) -> StepOptions:
    """The options of a step's record."""
    overrides = tuple(Override(group, name, float(value)) for group, name, value in facts["overrides"])
    return StepOptions(**{**facts, "overrides": overrides})
