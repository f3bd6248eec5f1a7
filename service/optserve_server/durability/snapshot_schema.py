"""Schema of a snapshot's facts, for files that a client sends.

The checksums of such a file are what its sender made them, so every value in it may be of any type. Files
of the server's own directory are not checked a second time: their checksums are the server's.
"""

from __future__ import annotations

import dataclasses
import functools
from datetime import datetime
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from optserve_server.coordination.membership import DURABLE_FIELDS, Member
from optserve_server.durability.snapshot_codec import FACTS
from optserve_server.spec.early_stopping import EarlyStoppingState
from optserve_server.spec.plateau import ReduceOnPlateauState
from optserve_server.state.step_result import StepResult
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.snapshot import Contents

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A number that a message can carry."""


def check_snapshot_facts(contents: Contents) -> None:
    """Checks the type and range of every fact of a snapshot.

    Raises:
        DamagedError: one of them is missing or is none that a server writes.
    """
    try:
        facts = _make_schema().validate_json(contents.metadata[FACTS])
    except (KeyError, ValidationError) as error:
        raise DamagedError("its facts are not those of a session") from error
    names = [name for name, _, _ in facts.layout]
    if not names or len(set(names)) < len(names):
        raise DamagedError("it has no tensors, or two of one name")


@functools.cache
def _make_schema() -> TypeAdapter[Any]:
    hints = get_type_hints(Member)
    member: Any = tuple.__class_getitem__(tuple(_type_of(hints[name]) for name in DURABLE_FIELDS))
    result: Any = _model_of(StepResult)
    plateau: Any = _model_of(ReduceOnPlateauState)
    stopping: Any = _model_of(EarlyStoppingState)
    progress: Any = _model(next=_Count, returned=list[_Count], leased=dict[str, list[_Count]])
    coordination: Any = _model(
        next_epoch=_Count,
        round_number=_Count,
        members=list[member],
        round=tuple[_Count, float] | None,
        data=progress | None,
    )
    history: Any = _model(workers=list[str], metrics=list[str], counts=list[_Count])
    return TypeAdapter(
        _model(
            history=(history | None, None),  # files of format 1 have none
            step=_Count,
            accumulated=_Count,
            skipped=_Count,
            seed=Annotated[int, Field(ge=0, lt=1 << 64)],
            created=datetime,
            layout=list[tuple[str, Literal["float32", "float64"], list[_Count]]],
            pending=list[str],
            clocks=list[tuple[str, _Count, dict[str, float], list[str] | None]],
            plateau=plateau | None,
            stopping=stopping | None,
            workers=list[tuple[str, _Count, list[tuple[str, result]]]],
            coordination=coordination | None,
        )
    )


def _model_of(described: type[Any]) -> type[BaseModel]:
    """A model with the fields of a dataclass."""
    hints = get_type_hints(described)
    return _model(**{field.name: _type_of(hints[field.name]) for field in dataclasses.fields(described)})


def _model(**types: Any) -> type[BaseModel]:
    """A model whose fields have these types; those without a default are required, others are ignored."""
    fields: dict[str, Any] = {
        name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in types.items()
    }
    return create_model("Facts", __config__=ConfigDict(strict=True), **fields)


def _type_of(hint: Any) -> Any:
    return _Count if hint is int else hint
