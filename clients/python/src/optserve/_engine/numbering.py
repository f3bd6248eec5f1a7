"""Numbers for steps, so that each is applied once however often it is sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

from optserve import errors

T = TypeVar("T")

REFUSALS = (
    errors.InvalidArgument,
    errors.NotFound,
    errors.FailedPrecondition,
    errors.Aborted,
    errors.ResourceExhausted,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.Unimplemented,
)
"""Errors that say for certain that a step was not applied."""


class Worker:
    """A sender of steps: an id of its own and the number of its next step.

    A number is used up when a step's result is known. A step that was refused gives its
    number to the next one. Where no answer came, the number stays as well: the same gradient
    sent again is answered, not applied twice; for another one, the server's refusal to take
    the number twice proves that the lost step was applied, and the next number is right.
    """

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.sequence = 1
        self._unsure = False

    def number(self, send: Callable[[str, int], T]) -> T:
        """Calls ``send`` with the worker's id and a step's number."""
        try:
            result = self._try(send)
        except errors.InvalidArgument as error:
            if not self._unsure or error.reason is not errors.Reason.SEQUENCE_REUSED:
                raise
            self.sequence += 1
            result = self._try(send)
        self.sequence += 1
        self._unsure = False
        return result

    def _try(self, send: Callable[[str, int], T]) -> T:
        try:
            return send(self.id, self.sequence)
        except BaseException as error:
            self._unsure = self._unsure or not isinstance(error, REFUSALS)
            raise
