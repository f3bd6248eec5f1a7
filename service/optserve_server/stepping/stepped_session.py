"""The part of a session that steps and their plans use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from optserve_server.programs.step_scalars import StepScalars
from optserve_server.state.reading import Pull
from optserve_server.state.session_state import SessionState
from optserve_server.state.sparse_rows import NamedRows
from optserve_server.state.staging import NamedArray, StagedTensor, Staging
from optserve_server.stepping.sparse_staging import NamedIndices, SparseStaging
from optserve_server.stepping.step_deduplication import StepDeduplication
from optserve_server.stepping.step_result import StepOptions, StepResult


class StepActivity(Protocol):
    """Counts steps; see `sessions.activity.Activity`."""

    used: float

    def count_step(self, result: StepResult) -> None:
        """Counts a step that was answered."""


class StepDurability(Protocol):
    """Durability of a session; see `sessions.session_durability`."""

    def own(self, staging: Staging) -> Staging:
        """A copy of a gradient that others may write to; the gradient itself if no others may."""

    def durable_step(self, step: int) -> int:
        """The step that would be recovered if the server were lost at ``step``."""


class SteppedSession(SessionState, Protocol):
    """A session as a step sees it; see `sessions.session.Session` for its members."""

    step_deduplication: StepDeduplication
    is_brief: bool

    @property
    def activity(self) -> StepActivity:
        """Counts its steps."""

    @property
    def durability(self) -> StepDurability | None:
        """Its durability; None if it is held in memory alone."""

    def admit(self, options: StepOptions) -> bool:
        """Checks a step without its gradient; False if it was answered before."""

    def count_step(self, numbers: StepScalars, covered: Collection[str] | None) -> None:
        """Counts a step that was applied."""

    def count_accumulated(self) -> None:
        """Counts a gradient that was accumulated."""

    def count_skipped(self) -> None:
        """Counts a step that was skipped."""


class PlannedSession(SteppedSession, Protocol):
    """A session as the plan of a stream sees it; see `sessions.session.Session` for its members."""

    is_small: bool
    closed: bool
    idle_plans: dict[object, object]

    def check_ready(self) -> None:
        """Checks that it can take steps."""

    def check_pull(self, pull: Pull) -> tuple[StagedTensor, ...]:
        """Checks that values can be sent, and lays them out."""

    def has_room(self, byte_count: int) -> bool:
        """Whether so many more resident bytes are within the limits."""

    def staging(self, tensors: Sequence[StagedTensor]) -> Staging:
        """A buffer for tensors that were laid out."""

    def stage(
        self, tensors: Sequence[str] | None, dtype: np.dtype[Any] | None, *, is_resident: bool = False
    ) -> Staging:
        """A buffer for values."""

    def stage_arrays(
        self, arrays: Sequence[NamedArray], sparse: Sequence[NamedRows] = (), *, is_resident: bool = False
    ) -> Staging:
        """A buffer that holds a gradient."""

    def stage_rows(
        self, tensors: Sequence[str], rows: Sequence[NamedIndices], dtype: np.dtype[Any] | None
    ) -> SparseStaging:
        """A buffer for streamed bytes of tensors and rows."""
