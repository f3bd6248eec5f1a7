"""Snapshots as messages, and the bytes of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from optserve.v1 import session_service_pb2 as pb
from optserve_server.durability.snapshot_codec import EncodedSnapshot
from optserve_server.resources.budget import Budget
from optserve_server.storage import snapshot
from optserve_server.storage.catalog import SnapshotFile
from optserve_server.storage.files import Piece
from optserve_server.wire.fields.names import snapshot_name


def snapshot_to(session_id: str, file: SnapshotFile) -> pb.Snapshot:
    """A snapshot of that session."""
    message = pb.Snapshot(
        name=snapshot_name(session_id, file.step),
        step=file.step,
        byte_count=file.byte_count,
        kept=file.kept,
    )
    message.create_time.FromNanoseconds(int(file.created * 1e9))
    return message


def serialize_snapshot(frozen: EncodedSnapshot, budget: Budget) -> npt.NDArray[np.uint8]:
    """A whole snapshot in memory (uint8), which ``budget`` counts.

    Raises:
        DomainError: it exceeds the budget.
    """
    buffer = budget.allocate_array(snapshot.count_encoded_bytes(frozen.tensors, frozen.metadata))
    position = 0

    def put(piece: Piece) -> None:
        nonlocal position
        data: npt.NDArray[Any] = np.frombuffer(piece, np.uint8)
        buffer[position : position + data.size] = data
        position += data.size

    snapshot.write_snapshot(put, frozen.tensors, frozen.metadata)
    return buffer
