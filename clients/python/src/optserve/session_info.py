"""The description of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from optserve._codec.layout import Layout
from optserve.formatting import format_bytes, to_record
from optserve.html_tables import render_fields, render_rows
from optserve.message_record import MessageRecord
from optserve.metrics import PlateauState, StoppingState
from optserve.shards import DataPlanState
from optserve.specs.session_spec import SessionSpec
from optserve.v1 import session_pb2


@dataclass(frozen=True)
class SessionInfo(MessageRecord, message=session_pb2.Session):
    """State of a session at one moment.

    Attributes:
        name: resource name, ``sessions/{id}``.
        spec: its specification, every field resolved.
        layout: its tensors.
        step: optimizer steps taken.
        accumulated: gradients accumulated towards the next step.
        skipped: steps skipped because of a non-finite gradient.
        ready: whether it can step; False while parameters are not uploaded yet, and when early
            stopping has ended the training.
        created: time of creation, in UTC.
        resident_bytes: memory that it occupies on the server.
        seed: of its initializers.
        slots: names of the optimizer-state arrays of each group; the default group's name is empty.
        reduce_on_plateau: its state; None if the specification has none.
        early_stopping: its state; None if the specification has none.
        durable_step: the last step that a crash of the server cannot lose; 0 for a session in memory only.
        data_plan: progress of its data plan; None without one.
    """

    name: str
    spec: SessionSpec
    layout: Layout
    step: int
    accumulated: int
    skipped: int
    ready: bool
    created: datetime
    resident_bytes: int
    seed: int
    slots: Mapping[str, tuple[str, ...]]
    reduce_on_plateau: PlateauState | None
    early_stopping: StoppingState | None
    durable_step: int = 0
    data_plan: DataPlanState | None = None

    @classmethod
    def from_message(cls, message: session_pb2.Session, **converted: object) -> Self:
        return super().from_message(
            message,
            layout=Layout.from_messages(message.layout),
            ready=message.state == session_pb2.SESSION_STATE_READY,
            created=message.create_time.ToDatetime(tzinfo=UTC),
            slots={group.group: tuple(group.slots) for group in message.slots},
        )

    def _repr_html_(self) -> str:
        columns = "name", "shape", "dtype", "byte_count"
        rows = ((t.name, list(t.shape), t.dtype.name, t.byte_count) for t in self.layout.values())
        title = f"{len(self.layout)} tensors, {format_bytes(self.layout.byte_count)}"
        tensors = render_rows(title, columns, rows, len(self.layout))
        return render_fields("Session", {**to_record(self), "layout": tensors})
