"""Bytes on their way in: where a gradient or a push lies until all of it is there."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.layout import Layout, TensorEntry


@dataclass(frozen=True)
class NamedArray:
    """A shaped array under a tensor's name; may be read-only and unaligned."""

    name: str
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class StagedTensor:
    """One tensor's bytes within a staging buffer.

    Attributes:
        entry: the tensor.
        dtype: element type of the bytes.
        byte_offset: where they start.
        field: the request field that they come from.
    """

    entry: TensorEntry
    dtype: np.dtype[Any]
    byte_offset: int
    field: str

    @property
    def byte_count(self) -> int:
        """How many bytes there are."""
        return self.entry.size * self.dtype.itemsize


@dataclass(frozen=True)
class Run:
    """Neighbours of one group, arena and staged dtype: what one kernel call covers.

    Attributes:
        tensors: the staged tensors, none of them empty.
        staged: their elements as they were sent, flat.
    """

    tensors: tuple[StagedTensor, ...]
    staged: npt.NDArray[Any]

    @property
    def start(self) -> int:
        """First element in the arena."""
        return self.tensors[0].entry.start

    @property
    def stop(self) -> int:
        """End in the arena."""
        return self.tensors[-1].entry.stop

    @functools.cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each tensor ends, counted from the run's start."""
        return np.array([tensor.entry.stop - self.start for tensor in self.tensors], np.int64)


class Staging:
    """A buffer for the bytes of some tensors, in the order of the layout.

    Attributes:
        tensors: what the buffer holds.
        buffer: the bytes (uint8), to be filled in place in any order.
    """

    def __init__(self, tensors: Sequence[StagedTensor]) -> None:
        self.tensors = tuple(tensors)
        self.byte_count = sum(tensor.byte_count for tensor in tensors)
        self.buffer = np.empty(self.byte_count, np.uint8)

    def array(self, tensor: StagedTensor) -> npt.NDArray[Any]:
        """The flat elements of one of `tensors`."""
        stop = tensor.byte_offset + tensor.byte_count
        return self.buffer[tensor.byte_offset : stop].view(tensor.dtype)

    def digest(self, *context: object) -> bytes:
        """A 128-bit fingerprint of the bytes, of what they stand for and of ``context``."""
        hasher = xxhash.xxh3_128(self.buffer.data)
        hasher.update(self._description)
        hasher.update(repr(context).encode())
        return hasher.digest()

    @functools.cached_property
    def _description(self) -> bytes:
        return repr([(tensor.entry.name, str(tensor.dtype)) for tensor in self.tensors]).encode()

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """The tensors cut into runs. Empty tensors belong to none."""
        return tuple(self._runs())

    def _runs(self) -> Iterator[Run]:
        pending: list[StagedTensor] = []
        for tensor in self.tensors:
            if tensor.entry.size == 0:
                continue
            if pending and not _continues(pending[-1], tensor):
                yield self._run(pending)
                pending = []
            pending.append(tensor)
        if pending:
            yield self._run(pending)

    def _run(self, tensors: list[StagedTensor]) -> Run:
        start = tensors[0].byte_offset
        stop = tensors[-1].byte_offset + tensors[-1].byte_count
        return Run(tuple(tensors), self.buffer[start:stop].view(tensors[0].dtype))


def _continues(before: StagedTensor, after: StagedTensor) -> bool:
    a, b = before.entry, after.entry
    return (a.dtype, a.group, before.dtype) == (b.dtype, b.group, after.dtype) and a.stop == b.start


def stage(layout: Layout, tensors: Sequence[str] | None, dtype: np.dtype[Any] | None) -> Staging:
    """Staging for a stream of bytes.

    Args:
        layout: the session's layout.
        tensors: names in any order; None for all.
        dtype: element type of the bytes; None for each tensor's own.

    Raises:
        DomainError: UNKNOWN_TENSOR or DUPLICATE_TENSOR, naming ``tensors[i]``.
    """
    names = [entry.name for entry in layout.entries] if tensors is None else list(tensors)
    if tensors is not None:
        check_names(layout, names, [f"tensors[{index}]" for index in range(len(names))])
    return Staging(_pack(layout, dict.fromkeys(names, (dtype, "chunk.data"))))


def stage_arrays(layout: Layout, arrays: Sequence[NamedArray]) -> Staging:
    """Staging that holds ``arrays``, each in its own dtype.

    Raises:
        DomainError: UNKNOWN_TENSOR, DUPLICATE_TENSOR or SHAPE_MISMATCH, naming ``[i]``.
    """
    check_names(layout, [a.name for a in arrays], [f"[{index}].name" for index in range(len(arrays))])
    for index, named in enumerate(arrays):
        expected, actual = layout[named.name].shape, named.array.shape
        if expected != actual:
            raise DomainError(
                Reason.SHAPE_MISMATCH,
                f"{named.name!r} has shape {_text(actual)}, but the session's tensor has {_text(expected)}",
                field=f"[{index}].tensor.shape",
                metadata={"tensor": named.name, "expected": _text(expected), "actual": _text(actual)},
            )
    given = {a.name: (a.array.dtype, f"gradients[{index}].tensor.data") for index, a in enumerate(arrays)}
    staging = Staging(_pack(layout, given))
    values = {named.name: named.array for named in arrays}
    for tensor in staging.tensors:
        staging.array(tensor)[...] = values[tensor.entry.name].reshape(-1)
    return staging


def check_names(layout: Layout, names: Sequence[str], fields: Sequence[str]) -> None:
    """Refuses names that are unknown or given twice.

    Raises:
        DomainError: UNKNOWN_TENSOR or DUPLICATE_TENSOR, naming the field.
    """
    seen: set[str] = set()
    for name, field in zip(names, fields, strict=True):
        metadata = {"tensor": name}
        if name not in layout:
            raise DomainError(
                Reason.UNKNOWN_TENSOR, f"no tensor is named {name!r}", field=field, metadata=metadata
            )
        if name in seen:
            raise DomainError(
                Reason.DUPLICATE_TENSOR, f"tensor {name!r} is named twice", field=field, metadata=metadata
            )
        seen.add(name)


def _pack(layout: Layout, given: Mapping[str, tuple[np.dtype[Any] | None, str]]) -> list[StagedTensor]:
    packed: list[StagedTensor] = []
    byte_offset = 0
    for name in sorted(given, key=layout.position):
        dtype, field = given[name]
        entry = layout[name]
        tensor = StagedTensor(entry, dtype or entry.dtype, byte_offset, field)
        packed.append(tensor)
        byte_offset += tensor.byte_count
    return packed


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def check_complete(layout: Layout, staging: Staging) -> None:
    """Refuses a gradient that leaves tensors out.

    Raises:
        DomainError: MISSING_TENSOR, naming the first.
    """
    if len(staging.tensors) == len(layout.entries):
        return
    given = {tensor.entry.name for tensor in staging.tensors}
    missing = next(entry.name for entry in layout.entries if entry.name not in given)
    raise DomainError(
        Reason.MISSING_TENSOR,
        f"accumulation needs a gradient for every tensor, but {missing!r} has none",
        metadata={"tensor": missing},
    )
