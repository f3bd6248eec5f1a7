"""Protocol of a change of a session: check, record, apply."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.storage.files import Piece


class ChangeKind(StrEnum):
    """Kind of a change."""

    STEP = "step"
    CONTRIBUTION = "contribution"
    DROPPED = "dropped"
    AGGREGATE = "aggregate"
    CLOSE_ROUND = "close_round"
    ACQUIRE_SHARDS = "acquire_shards"
    RELEASE_SHARDS = "release_shards"
    JOIN = "join"
    END_MEMBERSHIPS = "end_memberships"
    PUSH = "push"
    UPDATE = "update"
    REPORT = "report"
    CREATE = "create"
    FORK = "fork"
    IMPORT = "import"
    RESTORE = "restore"
    RESTORE_WEIGHTS = "restore_weights"
    SAVE = "save"
    DROP = "drop"
    DELETE = "delete"


OF_STEPS = frozenset(list(ChangeKind)[:7])
"""Changes that a training makes again and again; others are rare."""


@dataclass(frozen=True)
class Request:
    """A request that is answered once: its idempotency key and a digest of what it asks for.

    Without a key it is answered as often as it comes.
    """

    key: str = ""
    content: bytes = b""


class Checked(Protocol):
    """A change that was checked and not applied yet; the session stays locked until it is."""

    @property
    def has_changes(self) -> bool:
        """Whether applying it changes anything that has to be recorded."""

    def roll_back(self) -> None:
        """Releases what was allocated for it."""


C = TypeVar("C", bound=Checked)
S = TypeVar("S", contravariant=True)  # the session, or as much of it as a change needs


class Change(Generic[S, C]):
    """A requested change of a session; `Execution.commit` executes it.

    Attributes:
        kind: what it is.
        is_brief: whether it is short enough for the event loop, however large its session is.
    """

    kind: ChangeKind
    is_brief: bool = False

    def prepare(self, session: S) -> C:
        """Checks it, and changes nothing; see the session's own methods for what they raise."""
        raise NotImplementedError

    def encode_record(self, codec: SpecCodec) -> list[Piece]:
        """The payload of its record; asked for after `prepare`."""
        raise NotImplementedError
