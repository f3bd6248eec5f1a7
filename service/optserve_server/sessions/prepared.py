"""Changes that were checked and not made yet: between the two they can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from optserve_server.sessions.reading import Reply
from optserve_server.sessions.result import StepOptions, StepResult
from optserve_server.sessions.staging import Staging
from optserve_server.sessions.step import SILENT, Progress, Step, answer_with

if TYPE_CHECKING:
    from optserve_server.sessions.session import Session

T = TypeVar("T")


def nothing() -> None:
    """Gives back what takes nothing."""


@dataclass(frozen=True)
class Prepared(Generic[T]):
    """A change; its session must stay locked until it is made or given up.

    Attributes:
        commit: makes it, and returns its outcome.
        give_up: gives back what was taken for it.
        changes: whether it changes anything that has to be recorded.
    """

    commit: Callable[[], T]
    give_up: Callable[[], None] = nothing
    changes: ClassVar[bool] = True


@dataclass(slots=True)
class PreparedStep:
    """A step that was accepted and measured, and has changed nothing yet.

    Between `Session.prepare` and `commit` the session must stay locked.

    Attributes:
        staging: the gradient.
        options: what the step asks for.
        digest: the fingerprint of the gradient, where a worker sent it.
        stored: the answer that it had before, where it is a repetition: nothing is left to do.
    """

    _session: Session
    _step: Step
    staging: Staging
    options: StepOptions
    digest: bytes
    stored: StepResult | None = None

    @property
    def changes(self) -> bool:
        """Whether `commit` will change anything."""
        return self.stored is None and self._step.changes

    def give_up(self) -> None:
        """Nothing was taken for it."""

    def commit(self, reply: Reply | None = None, progress: Progress = SILENT) -> StepResult:
        """Takes the step and remembers its answer.

        Args:
            reply: where the values that follow it go; None for nowhere.
            progress: is told of the result as soon as it is known, and of the values.
        """
        if self.stored is not None:
            result = self.stored
            answer_with(self._session, result, reply, progress)
        else:
            result = self._step.commit(reply, progress)
            result.worker, result.sequence = self.options.worker, self.options.sequence
            if self.options.worker and self._step.changes:
                self._session.ledger.remember(self.options.worker, self.digest, result)
            self._session.activity.stepped(result)
        progress.reached(reply.staging.byte_count if reply is not None else 0)
        return result
