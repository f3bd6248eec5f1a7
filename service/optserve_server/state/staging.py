"""Staging buffers: a gradient or a push until all of its bytes have arrived."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from optserve_server.arrays.backend import Backend, DeviceCopy
from optserve_server.errors import DomainError, Reason
from optserve_server.programs.step_scalars import SessionScalars
from optserve_server.resources.budget import UNBOUNDED
from optserve_server.state.layout import Layout, TensorEntry
from optserve_server.state.sparse_rows import NamedRows, check_rows, shape_text, sum_duplicates

Allocate: TypeAlias = Callable[[int], npt.NDArray[np.uint8]]


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
        rows: the rows that alone are there (int64, rising); None for all of them.
    """

    entry: TensorEntry
    dtype: np.dtype[Any]
    byte_offset: int
    field: str
    rows: npt.NDArray[np.int64] | None = dataclasses.field(default=None, compare=False)

    @property
    def size(self) -> int:
        """How many elements there are."""
        if self.rows is None:
            return self.entry.size
        return self.rows.size * math.prod(self.entry.shape[1:])

    @property
    def byte_count(self) -> int:
        """How many bytes there are."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbours of one group, arena and staged dtype: what one kernel call covers.

    A tensor of which only some rows are there is a run of its own.

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

    @property
    def rows(self) -> npt.NDArray[np.int64] | None:
        """The rows of its only tensor that are there; None if all of every tensor is."""
        return self.tensors[0].rows

    def get_device_copy(self, backend: Backend) -> DeviceCopy:
        """Where these elements lie for the kernels of ``backend``, the same each time."""
        if "mirror" not in self.__dict__:
            self.__dict__["mirror"] = backend.make_device_copy(self.staged)
        mirror: DeviceCopy = self.__dict__["mirror"]
        return mirror

    @functools.cached_property
    def tensor_ends(self) -> npt.NDArray[np.int64]:
        """Where each tensor ends among the run's elements."""
        if self.rows is not None:
            return np.array([self.staged.size], np.int64)
        return np.array([tensor.entry.stop - self.start for tensor in self.tensors], np.int64)


class Staging:
    """A buffer for the bytes of some tensors, in the order of the layout.

    Attributes:
        tensors: what the buffer holds.
        buffer: the bytes (uint8), to be filled in place in any order.
        data: the same as a view.
        sparse: the rows as they were sent, of the tensors that were sent so.
        plan: what a session worked out for it, to be used again; see `stepping.kernel_plan`.
        described: what records say of it, once one has; see `durability.change_records`.
        foreign: whether a client may write to the buffer at any time.
    """

    foreign = False

    def __init__(
        self,
        tensors: Sequence[StagedTensor],
        sparse: Sequence[NamedRows] = (),
        allocate: Allocate = UNBOUNDED.allocate_array,
    ) -> None:
        self.tensors = tuple(tensors)
        self.sparse = tuple(sparse)
        self.byte_count = sum(tensor.byte_count for tensor in tensors)
        self.buffer = allocate(self.byte_count)
        self.data = self.buffer.data
        self.plan: object = None
        self.described = ""
        self._context: tuple[object, ...] | None = None
        self._meaning = b""

    def array(self, tensor: StagedTensor) -> npt.NDArray[Any]:
        """The flat elements of one of `tensors`."""
        stop = tensor.byte_offset + tensor.byte_count
        return self.buffer[tensor.byte_offset : stop].view(tensor.dtype)

    def digest(
        self, context: tuple[object, ...], stand_in: int = 0, of: xxhash.xxh3_128 | None = None
    ) -> bytes:
        """A 128-bit fingerprint of what was sent, of what it stands for and of ``context``.

        Args:
            context: what else makes a step what it is.
            stand_in: a number that the sender gave in place of the bytes; 0 for the bytes.
            of: has seen all the bytes, where they were seen as they came.
        """
        if of is not None:
            hasher = of
        elif stand_in:
            hasher = xxhash.xxh3_128(stand_in.to_bytes(8, "little"))
        else:
            hasher = self._start_hash() if self.sparse else xxhash.xxh3_128(self.data)
        if context != self._context:  # as a rule, equal in every step of a stream
            self._context, self._meaning = context, self._encoded_tensor_types + repr(context).encode()
        hasher.update(self._meaning)
        return hasher.digest()

    def _start_hash(self) -> xxhash.xxh3_128:
        """Returns the hash of the bytes as they were sent; those of sparse rows have left the buffer."""
        hasher = xxhash.xxh3_128()
        names = {rows.name for rows in self.sparse}
        for tensor in self.tensors:
            if tensor.entry.name not in names:
                hasher.update(self.array(tensor).view(np.uint8).data)
        for rows in self.sparse:
            for piece in rows.digest_content():
                hasher.update(piece)
        return hasher

    @functools.cached_property
    def _encoded_tensor_types(self) -> bytes:
        return repr([(tensor.entry.name, str(tensor.dtype)) for tensor in self.tensors]).encode()

    @functools.cached_property
    def runs(self) -> tuple[Run, ...]:
        """The tensors cut into runs. Empty tensors belong to none."""
        return tuple(self._merge_adjacent_tensors())

    def _merge_adjacent_tensors(self) -> Iterator[Run]:
        pending: list[StagedTensor] = []
        for tensor in self.tensors:
            if tensor.size == 0:
                continue
            if pending and not _is_adjacent(pending[-1], tensor):
                yield self._make_run(pending)
                pending = []
            pending.append(tensor)
        if pending:
            yield self._make_run(pending)

    def _make_run(self, tensors: list[StagedTensor]) -> Run:
        start = tensors[0].byte_offset
        stop = tensors[-1].byte_offset + tensors[-1].byte_count
        return Run(tuple(tensors), self.buffer[start:stop].view(tensors[0].dtype))


def split_by_counter(numbers: SessionScalars, run: Run) -> list[tuple[int, Run]]:
    """A run cut where its tensors have counted different steps: each part, behind its counter's position."""
    counters = [numbers.counter_index(tensor.entry.name, tensor.entry.group) for tensor in run.tensors]
    if len(set(counters)) == 1:
        return [(counters[0], run)]
    parts: list[tuple[int, Run]] = []
    for counter, group in itertools.groupby(zip(counters, run.tensors, strict=True), operator.itemgetter(0)):
        tensors = tuple(tensor for _, tensor in group)
        first, last = tensors[0].entry.start - run.start, tensors[-1].entry.stop - run.start
        parts.append((counter, Run(tensors, run.staged[first:last])))
    return parts


def _is_adjacent(before: StagedTensor, after: StagedTensor) -> bool:
    a, b = before.entry, after.entry
    if before.rows is not None or after.rows is not None:
        return False
    return (a.dtype, a.group, before.dtype) == (b.dtype, b.group, after.dtype) and a.stop == b.start


def allocate_staging(
    layout: Layout,
    tensors: Sequence[str] | None,
    dtype: np.dtype[Any] | None,
    allocate: Allocate = UNBOUNDED.allocate_array,
) -> Staging:
    """Staging for a stream of bytes; other arguments and errors as of `lay_out`.

    Args:
        layout: the session's layout.
        tensors: names in any order; None for all.
        dtype: element type of the bytes; None for each tensor's own.
        allocate: makes the buffer.
    """
    return Staging(lay_out(layout, tensors, dtype), allocate=allocate)


def lay_out(
    layout: Layout, tensors: Sequence[str] | None, dtype: np.dtype[Any] | None
) -> tuple[StagedTensor, ...]:
    """Returns the layout of a stream of bytes in its staging.

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
    return tuple(_pack_tensors(layout, dict.fromkeys(names, _Given(dtype, "chunk.data"))))


def stage_arrays(
    layout: Layout,
    arrays: Sequence[NamedArray],
    sparse: Sequence[NamedRows] = (),
    *,
    lazy: bool = False,
    allocate: Allocate = UNBOUNDED.allocate_array,
) -> Staging:
    """Staging that holds ``arrays``, each in its own dtype, and sparse rows in their parameter's.

    Args:
        layout: the session's layout.
        arrays: whole tensors.
        sparse: some rows of other tensors. Those given more than once are summed.
        lazy: whether the rows alone are staged; zeros stand for the others otherwise.
        allocate: gives the buffer (uint8) of that many bytes.

    Raises:
        DomainError: UNKNOWN_TENSOR, DUPLICATE_TENSOR or SHAPE_MISMATCH, naming
            ``gradients[i]`` or ``sparse_gradients[i]``, and OUT_OF_RANGE for an index.
    """
    fields = [f"gradients[{index}]" for index in range(len(arrays))]
    sparse_fields = [f"sparse_gradients[{index}]" for index in range(len(sparse))]
    names = [*(named.name for named in arrays), *(rows.name for rows in sparse)]
    check_names(layout, names, [f"{field}.name" for field in (*fields, *sparse_fields)])
    for named, field_ in zip(arrays, fields, strict=True):
        _check_shape(layout[named.name], named, field_)
    for rows, field_ in zip(sparse, sparse_fields, strict=True):
        check_rows(layout[rows.name], rows, field_)
    given = {a.name: _Given(a.array.dtype, f"{f}.tensor.data") for a, f in zip(arrays, fields, strict=True)}
    sums = {rows.name: sum_duplicates(rows, layout[rows.name].dtype) for rows in sparse}
    for rows, field_ in zip(sparse, sparse_fields, strict=True):
        given[rows.name] = _Given(None, f"{field_}.values.data", sums[rows.name][0] if lazy else None)
    staging = Staging(_pack_tensors(layout, given), sparse, allocate)
    values = {named.name: named.array for named in arrays}
    for tensor in staging.tensors:
        _fill_tensor(
            staging.array(tensor), tensor, values.get(tensor.entry.name), sums.get(tensor.entry.name)
        )
    return staging


def _check_shape(entry: TensorEntry, named: NamedArray, field_: str) -> None:
    if entry.shape != named.array.shape:
        expected, actual = shape_text(entry.shape), shape_text(named.array.shape)
        raise DomainError(
            Reason.SHAPE_MISMATCH,
            f"{named.name!r} has shape {actual}, but the session's tensor has {expected}",
            field=f"{field_}.tensor.shape",
            metadata={"tensor": named.name, "expected": expected, "actual": actual},
        )


def _fill_tensor(
    target: npt.NDArray[Any],
    tensor: StagedTensor,
    array: npt.NDArray[Any] | None,
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[Any]] | None,
) -> None:
    """Fills a tensor's flat elements from a whole array, or from rows."""
    if array is not None:
        target[...] = array.reshape(-1)
    elif rows is not None and tensor.rows is not None:
        target[...] = rows[1].reshape(-1)
    elif rows is not None:
        target[...] = 0
        target.reshape(tensor.entry.shape)[rows[0]] = rows[1]


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


class _Given(NamedTuple):
    """Staged part of a tensor: element type (None: its own), field, rows (None: all)."""

    dtype: np.dtype[Any] | None
    field: str
    rows: npt.NDArray[np.int64] | None = None


def _pack_tensors(layout: Layout, given: Mapping[str, _Given]) -> list[StagedTensor]:
    """Tensors in the order of their bytes: wider types first, so that each is aligned."""

    def place(name: str) -> tuple[int, int]:
        dtype = given[name].dtype or layout[name].dtype
        return -dtype.itemsize, layout.tensor_index(name)

    packed: list[StagedTensor] = []
    byte_offset = 0
    for name in sorted(given, key=place):
        dtype, source, rows = given[name]
        entry = layout[name]
        tensor = StagedTensor(entry, dtype or entry.dtype, byte_offset, source, rows)
        packed.append(tensor)
        byte_offset += tensor.byte_count
    return packed


def no_tensor_error() -> DomainError:
    """The error of a gradient that has no tensor at all."""
    text = "a step needs the gradient of at least one tensor, in gradients or sparse_gradients"
    return DomainError(Reason.FIELD_REQUIRED, text, field="gradients")


def check_complete(layout: Layout, covered: Collection[str] | None, frozen: Collection[str]) -> None:
    """Rejects a gradient that leaves tensors out.

    Args:
        layout: the session's layout.
        covered: names of the tensors that the gradient covers; None for all that are not frozen.
        frozen: names of the groups that are frozen.

    Raises:
        DomainError: MISSING_TENSOR, naming the first.
    """
    if covered is None:
        return
    missing = next(e.name for e in layout.entries if e.name not in covered and e.group not in frozen)
    raise DomainError(
        Reason.MISSING_TENSOR,
        f"accumulation needs a gradient for every tensor, but {missing!r} has none",
        metadata={"tensor": missing},
    )
