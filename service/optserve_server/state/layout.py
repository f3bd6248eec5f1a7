"""Layout of a session's tensors in its arenas and on the wire."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optserve_server.errors import DomainError, Reason
from optserve_server.spec.session_spec import ParameterGroup


@dataclass(frozen=True)
class TensorEntry:
    """Position of one tensor.

    Attributes:
        name: its name.
        dtype: float32 or float64.
        shape: extent of each dimension.
        group: its parameter group; empty for the default group.
        size: number of elements.
        start: offset in the arena of its dtype, in elements.
        byte_offset: offset in the whole layout, in bytes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    group: str
    size: int
    start: int
    byte_offset: int

    @property
    def stop(self) -> int:
        """End in the arena of its dtype, in elements."""
        return self.start + self.size


class Layout:
    """A session's tensors in order: wider types first, then by group, then as they were given.

    So each arena is one run of the whole layout's bytes, each group one range of each arena, and
    every tensor aligned to its element size without padding.
    """

    def __init__(
        self,
        tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
        groups: Sequence[ParameterGroup] = (),
    ) -> None:
        membership = assign_groups([name for name, _, _ in tensors], groups)
        order = {"": 0} | {group.name: index for index, group in enumerate(groups, start=1)}
        ordered = sorted(tensors, key=lambda tensor: (-tensor[1].itemsize, order[membership[tensor[0]]]))
        self.entries = tuple(_place_tensors(ordered, membership))
        self.byte_count = sum(entry.size * entry.dtype.itemsize for entry in self.entries)
        self._by_name = {entry.name: entry for entry in self.entries}
        self._position = {entry.name: position for position, entry in enumerate(self.entries)}

    def __getitem__(self, name: str) -> TensorEntry:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def tensor_index(self, name: str) -> int:
        """The index of the tensor in `entries`."""
        return self._position[name]

    @property
    def tensors_by_group(self) -> dict[str, list[str]]:
        """Names of the tensors of each group that has any."""
        members: dict[str, list[str]] = {}
        for entry in self.entries:
            members.setdefault(entry.group, []).append(entry.name)
        return members

    @property
    def arena_sizes(self) -> dict[np.dtype[Any], int]:
        """Number of elements of each dtype."""
        sizes: dict[np.dtype[Any], int] = {}
        for entry in self.entries:
            sizes[entry.dtype] = entry.stop
        return sizes


def _place_tensors(
    ordered: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]], membership: dict[str, str]
) -> Iterator[TensorEntry]:
    starts: dict[np.dtype[Any], int] = {}
    byte_offset = 0
    for name, dtype, shape in ordered:
        size = math.prod(shape)
        start = starts.get(dtype, 0)
        yield TensorEntry(name, dtype, shape, membership[name], size, start, byte_offset)
        starts[dtype] = start + size
        byte_offset += size * dtype.itemsize


def assign_groups(names: Sequence[str], groups: Sequence[ParameterGroup]) -> dict[str, str]:
    """The group of each tensor.

    Raises:
        DomainError: UNKNOWN_TENSOR if a pattern matches nothing, DUPLICATE_TENSOR if
            a tensor would belong to two groups, CONFLICTING_FIELDS if two groups share
            a name; fields start at ``spec.groups``.
    """
    membership = dict.fromkeys(names, "")
    seen: set[str] = set()
    for index, group in enumerate(groups):
        path = f"spec.groups[{index}]"
        if group.name in seen:
            raise DomainError(
                Reason.CONFLICTING_FIELDS, f"two groups are named {group.name!r}", field=f"{path}.name"
            )
        seen.add(group.name)
        for position, pattern in enumerate(group.tensors):
            field = f"{path}.tensors[{position}]"
            for name in _match_tensor_names(pattern, membership, field):
                if membership[name] not in ("", group.name):
                    raise DomainError(
                        Reason.DUPLICATE_TENSOR,
                        f"tensor {name!r} belongs to group {membership[name]!r} already",
                        field=field,
                        metadata={"tensor": name},
                    )
                membership[name] = group.name
    return membership


def _match_tensor_names(pattern: str, membership: dict[str, str], field: str) -> list[str]:
    # A name may hold pattern characters, so it is tried as it stands first.
    if pattern in membership:
        return [pattern]
    matches = [name for name in membership if fnmatch.fnmatchcase(name, pattern)]
    if not matches:
        raise DomainError(
            Reason.UNKNOWN_TENSOR, f"no tensor matches {pattern!r}", field=field, metadata={"tensor": pattern}
        )
    return matches
