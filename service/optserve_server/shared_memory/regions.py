"""Regions of memory shared with clients on the same host: creation, hand-over to one client, release."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from optserve_server.errors import DomainError, Reason, within
from optserve_server.resources.budget import Budget, Charge, Kind
from optserve_server.shared_memory.live_parameters import LiveParameters, LiveSession, move_to_shared_memory
from optserve_server.shared_memory.shared_block import SharedBlock
from optserve_server.state.read_parameters import Point, Pull, Values
from optserve_server.state.staging import Staging, allocate_staging, check_names

NAME_BYTES = 32
"""Random bytes in a region's name."""

DESCRIPTORS_OF_A_NEW_REGION = 4
"""At most: gradient, values, the session's parameters, and the connection of its client."""

Key = tuple[tuple[str, ...] | None, np.dtype[Any] | None, Point]
"""Tensors (None for all), element type (None for their own) and point of some values."""


class SharedSession(LiveSession, Protocol):
    """A session as shared memory sees it; see `sessions.session.Session` for its members."""

    budget: Budget
    closed: bool
    on_close: dict[object, Callable[[], object]]

    @property
    def lock(self) -> asyncio.Lock:
        """Held while its arrays are used."""

    def check_open(self) -> None:
        """Checks that it was neither deleted nor evicted."""

    def read_values(
        self,
        tensors: Sequence[str] | None = None,
        dtype: np.dtype[Any] | None = None,
        point: Point = Point.PARAMETERS,
        into: Staging | None = None,
    ) -> Values:
        """A copy of its values."""


@dataclass(eq=False)
class Region:
    """Memory that one client and the server share for the steps of one session.

    A client cannot be stopped from writing to its gradient during a step. What it changes
    there is its own session's next parameters: kernels do arithmetic, whatever the numbers.

    Attributes:
        session: whose steps may use it.
        key: which values it holds; None for none.
        staging: the gradient in it, which the client writes.
        values: where values are copied to; None if they are live, or there are none.
        live: the session's own parameters, where those are the values.
        name: unguessable; a client that knows it may claim the region once, and step with it.
        claimed: whether it was handed over.
        on_drop: what is called once when the region is dropped, by whom it concerns.
        used: when a stream last used it (monotonic seconds).
    """

    session: SharedSession
    key: Key | None = None
    staging: Staging = field(default_factory=lambda: Staging(()))
    values: Staging | None = None
    live: LiveParameters | None = None
    name: str = field(default_factory=lambda: secrets.token_hex(NAME_BYTES))
    claimed: bool = False
    on_drop: dict[object, Callable[[], object]] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)
    _streams: set[object] = field(default_factory=set)
    _blocks: list[SharedBlock] = field(default_factory=list)
    _charges: list[Charge] = field(default_factory=list)

    def allocate(self, byte_count: int, *, writable: bool) -> npt.NDArray[np.uint8]:
        """Memory of its own, counted before it is taken.

        Raises:
            DomainError: LIMIT_EXCEEDED or QUOTA_EXCEEDED.
            OSError: the machine has no such memory, or not as much.
        """
        self._charges.append(Charge(self.session.budget, Kind.RESIDENT, byte_count))
        self._blocks.append(SharedBlock(byte_count, writable=writable))
        return self._blocks[-1].array

    def has_memory_for(self, pull: Pull) -> bool:
        """Whether it has memory for these values."""
        if self.key is None:
            return False
        tensors, dtype, point = self.key
        # NumPy takes None for float64 where it compares types.
        alike = dtype == pull.dtype and (dtype is None) == (pull.dtype is None)
        return alike and (tensors, point) == (pull.tensors, pull.point)

    def hold(self, stream: object, on_drop: Callable[[], object]) -> None:
        """Keeps the region from being idle until `release`."""
        self._streams.add(stream)
        self.on_drop[stream] = on_drop

    def release(self, stream: object) -> None:
        """Lets the region be idle, if no other stream holds it."""
        self._streams.discard(stream)
        self.on_drop.pop(stream, None)
        self.used = time.monotonic()

    def is_idle(self, since: float) -> bool:
        """Whether no stream holds it or has used it since that moment (monotonic seconds)."""
        return not self._streams and self.used < since

    @property
    def descriptor_count(self) -> int:
        """Open descriptors: its blocks' until it is handed over, then its client's connection."""
        return self.claimed + sum(block.descriptor_count for block in self._blocks)

    def close_descriptors(self) -> None:
        """Closes the descriptors of its own memory, which its client has; the memory stays."""
        for block in self._blocks:
            block.close_descriptor()

    def descriptors(self) -> list[int]:
        """What a client maps: gradients, then parameters if there are any."""
        blocks = self._blocks if self.live is None else [*self._blocks, self.live.block]
        return [block.fileno() for block in blocks]

    def close(self) -> None:
        """Lets go of all memory, which goes with its last use."""
        for block in self._blocks:
            block.close()
        # A stream that still refers to the region keeps none of its memory alive.
        self.staging = Staging(())
        self.values = self.live = None
        self._blocks.clear()
        self._charges.clear()


def make_region(
    session: SharedSession, tensors: tuple[str, ...] | None, dtype: np.dtype[Any] | None, key: Key | None
) -> Region:
    """Makes memory for a session, whose lock the caller holds.

    Args:
        session: the session.
        tensors: names of those whose gradients it is to hold; None for all.
        dtype: their element type; None for each tensor's own.
        key: which values it is to hold; None for none.

    Raises:
        DomainError: UNKNOWN_TENSOR, DUPLICATE_TENSOR, LIMIT_EXCEEDED, QUOTA_EXCEEDED or what
            `Session.read_values` raises, and SHARED_MEMORY_UNAVAILABLE if the machine has no
            such memory, or not as much.
    """
    tensors_of_values, _, point = key or ((), None, Point.PARAMETERS)
    with within("pull"):
        session.read_values([], None, point)
        names = tensors_of_values or ()
        check_names(session.layout, names, [f"tensors[{index}]" for index in range(len(names))])
    region = Region(session, key)
    try:
        space = partial(region.allocate, writable=True)
        region.staging = allocate_staging(session.layout, tensors, dtype, space)
        region.staging.foreign = True
        if key is not None:
            _add_value_memory(region, key)
    except BaseException as error:
        region.close()
        if isinstance(error, OSError):
            text = "the server's machine has no memory to share, or not as much"
            raise DomainError(Reason.SHARED_MEMORY_UNAVAILABLE, text) from error
        raise
    return region


def can_share_in_place(session: SharedSession, key: Key) -> bool:
    """Whether values can be read where the session keeps them: unconverted, and on the host."""
    _, dtype, point = key
    # NumPy takes None for float64 where it compares types.
    own = dtype is None or all(dtype == entry.dtype for entry in session.layout.entries)
    on_host = all(isinstance(array, np.ndarray) for array in session.arenas.parameters.values())
    return own and on_host and point is Point.PARAMETERS


def _add_value_memory(region: Region, key: Key) -> None:
    session, (tensors, dtype, _) = region.session, key
    if can_share_in_place(session, key):
        region.live = move_to_shared_memory(session)
    else:
        space = partial(region.allocate, writable=False)
        region.values = allocate_staging(session.layout, tensors, dtype, space)


class Regions:
    """All regions of a server, by name. Used on the event loop alone.

    Args:
        max_descriptors: how many file descriptors they may hold.
        idle_seconds: after which an unused region is dropped; 0 for never.

    Attributes:
        max_descriptors: as given.
    """

    def __init__(self, max_descriptors: int, idle_seconds: float) -> None:
        self.max_descriptors = max_descriptors
        self._idle_seconds = idle_seconds
        self._regions: dict[str, Region] = {}
        self._live_used: dict[SharedSession, float] = {}

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def descriptor_count(self) -> int:
        """File descriptors held: of regions, and of sessions' parameters that clients may read."""
        live = sum(session.live is not None for session in self._live_used)
        return live + sum(region.descriptor_count for region in self._regions.values())

    @property
    def has_room(self) -> bool:
        """Whether there may be another region."""
        return self.descriptor_count + DESCRIPTORS_OF_A_NEW_REGION <= self.max_descriptors

    def check_room(self) -> None:
        """Refuses a region more than there may be.

        Raises:
            DomainError: LIMIT_EXCEEDED.
        """
        if not self.has_room:
            limit = "max_shared_memory_descriptors"
            text = (
                f"shared memory holds {self.descriptor_count} file descriptors and a region takes up to"
                f" {DESCRIPTORS_OF_A_NEW_REGION}, which exceeds the server's {limit}, {self.max_descriptors}"
            )
            metadata = {"limit": limit, "value": self.max_descriptors}
            raise DomainError(Reason.LIMIT_EXCEEDED, text, metadata=metadata)

    def drop_idle_regions(self) -> None:
        """Drops what was idle for too long: regions, and parameters' descriptors without a region."""
        now = time.monotonic()
        before = now - self._idle_seconds if self._idle_seconds else 0.0
        for region in list(self._regions.values()):
            if region.is_idle(before):
                self.drop(region)
        for region in self._regions.values():
            if region.live is not None:
                self._live_used[region.session] = now
        for session, used in list(self._live_used.items()):
            # A step under way counts its changes in them.
            if session.closed or (used < before and not session.lock.locked()):
                session.live = None
                del self._live_used[session]

    def add(self, region: Region) -> None:
        """Keeps a region until it is dropped, or its session closed.

        Raises:
            DomainError: SESSION_NOT_FOUND if the session was closed meanwhile.
        """
        if region.session.closed:
            region.close()
            region.session.check_open()
        self._regions[region.name] = region
        if region.live is not None:
            self._live_used[region.session] = time.monotonic()
        region.session.on_close[region] = lambda: self.drop(region)

    def claim(self, name: str) -> Region | None:
        """Returns the region of that name, once; None if it does not exist or was claimed."""
        region = self._regions.get(name)
        if region is None or region.claimed:
            return None
        region.claimed = True
        return region

    def get(self, name: str, session: SharedSession) -> Region:
        """The region that a step of ``session`` names.

        Raises:
            DomainError: REGION_NOT_FOUND, at the field ``region``.
        """
        region = self._regions.get(name)
        if region is None or region.session is not session:
            text = "the session shares no memory of that name, or no more"
            raise DomainError(Reason.REGION_NOT_FOUND, text, field="region")
        return region

    def drop(self, region: Region) -> None:
        """Forgets a region; steps under way keep what they use to their end."""
        if self._regions.pop(region.name, None) is None:
            return
        region.session.on_close.pop(region, None)
        region.close()
        for on_drop in list(region.on_drop.values()):
            on_drop()

    def drop_all(self) -> None:
        """Forgets every region."""
        for region in list(self._regions.values()):
            self.drop(region)
