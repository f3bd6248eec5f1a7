"""Event files of TensorBoard, without TensorFlow."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.summary.writer.record_writer import RecordWriter

from optserve.file_access import lock_exclusively
from optserve.recording.destination import IDENTITY, IdentityIndex, find_series, identify, list_scalars

SUFFIX = ".optserve"
"""End of the names of these files. Others in the folder are left alone."""

FRAME_BYTES = 16
"""Bytes of a record beside its content: length and two checksums."""


class EventFiles:
    """A folder of event files, which is a run of TensorBoard.

    Each process writes a file of its own, whose name is after those that are there. The end of a file that a
    process left in the middle of a record is cut off. A step is one record, with all of its scalars. A
    restored session writes SessionLog START, with which TensorBoard drops the later steps.

    Args:
        folder: is made if there is none. One process at a time writes it.

    Raises:
        RuntimeError: another process writes the folder.
        OSError: it cannot be read or written.
    """

    tick_us = 1

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = lock_exclusively(folder / f".lock{SUFFIX}")
        self._identities = IdentityIndex()
        self._file: io.FileIO | None = None
        for path in self._list_files():
            self._read(path)

    def read_identities(self, series: str) -> npt.NDArray[Any]:
        """Returns the recorded points of a series."""
        return self._identities.read(series)

    def write(self, series: str, points: npt.NDArray[Any]) -> None:
        """Adds points."""
        identities = identify(points, self.tick_us)
        self._write(
            Event(
                wall_time=int(identity["time"]) / 1e6,
                step=int(identity["step"]),
                summary=Summary(
                    value=[
                        Summary.Value(tag=tag, simple_value=value)
                        for tag, value in list_scalars(series, point).items()
                    ]
                ),
            )
            for identity, point in zip(identities, points, strict=True)
        )
        self._identities.add(series, identities)

    def roll_back(self, step: int) -> None:
        """Removes the points of this step and later ones."""
        log = SessionLog(status=SessionLog.START)
        self._write(iter([Event(wall_time=time.time(), step=step, session_log=log)]))
        self._identities.roll_back(step)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def _write(self, events: Iterator[Event]) -> None:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        if self._file is None:
            self._file = self._create_file()
            writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for event in events:
            writer.write(event.SerializeToString())
        left = memoryview(buffer.getvalue())
        while left:
            left = left[self._file.write(left) :]

    def _create_file(self) -> io.FileIO:
        """Creates a file whose name is after the others', in which order TensorBoard reads them."""
        last = [int(path.name.split(".")[3]) + 1 for path in self._list_files()[-1:]]
        seconds = max([int(time.time()), *last])
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}{SUFFIX}"
        return io.FileIO(self._folder / name, "x")

    def _list_files(self) -> list[Path]:
        return sorted(self._folder.glob(f"events.out.tfevents.*{SUFFIX}"))

    def _read(self, path: Path) -> None:
        """Reads which points a file has, and cuts off what is no complete record."""
        reader, end = PyRecordReader_New(str(path)), 0
        found: dict[str, list[tuple[int, int]]] = {}
        try:
            while True:
                reader.GetNext()
                end += len(reader.record()) + FRAME_BYTES
                event = Event.FromString(reader.record())
                if event.HasField("session_log"):
                    self._add(found)
                    self._identities.roll_back(event.step)
                elif event.HasField("summary"):
                    series = find_series(event.summary.value[0].tag)
                    found.setdefault(series, []).append((event.step, round(event.wall_time * 1e6)))
        except OutOfRangeError:
            pass
        except DataLossError:
            os.truncate(path, end)
        finally:
            reader.file_handle.close()
        self._add(found)

    def _add(self, found: dict[str, list[tuple[int, int]]]) -> None:
        for series, identities in found.items():
            self._identities.add(series, np.array(identities, IDENTITY))
        found.clear()
