"""What one lone step of a stream leaves behind for the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optserve.answers import Lookup
from optserve.data_call import DataCall
from optserve.direct_call import DirectCall
from optserve.outline import Asked, Outline

LoneCall = DataCall | DirectCall
"""Calls that the thread which waits for an answer drives itself."""

DIGITS = tuple(bytes((number,)) for number in range(256))
DIGIT = 7
"""Bits in one byte of a varint."""
MORE = 1 << DIGIT
"""Says in a byte of a varint that another follows."""


class LoneStep:
    """Makes the message of a step that is like the one before it, and has nothing beside it.

    Steps of one worker that ask for the same differ in their gradients and in their number.
    The number is a varint, so 128 steps in a row differ in one byte of it: what stands before
    that byte and behind it is encoded once for all of them.

    Args:
        call: that the step before went over.
        outline: of its gradients.
        worker: who takes the steps.
        asked: what they ask for.
        byte_count: bytes that go and come with a step.
        seconds: how long to wait for an answer.
        lookup: finds values in shared memory.

    Attributes:
        call, outline, asked, byte_count, seconds, lookup: likewise.
        cancel: the call's.
    """

    def __init__(
        self,
        call: LoneCall,
        outline: Outline,
        worker: str,
        asked: Asked,
        byte_count: int,
        seconds: float,
        lookup: Lookup | None,
    ) -> None:
        self.call, self.outline, self.asked = call, outline, asked
        self.byte_count, self.seconds, self.lookup = byte_count, seconds, lookup
        self.cancel: Callable[[], object] = call.cancel
        self._worker = worker
        self._upper = -1
        self._more = 0
        self._around: tuple[bytes, bytes] | None = None

    def asks(self, expected_step: object, loss_scale: object, per_tensor_norms: object) -> bool:
        """Whether that is what these steps ask for."""
        asked = self.asked
        if expected_step is not asked.expected_step or per_tensor_norms is not asked.per_tensor_norms:
            return False
        known = asked.loss_scale
        return loss_scale is known or (type(loss_scale) is float and loss_scale == known)

    def message(self, gradients: Mapping[str, Any], sequence: int) -> bytes | None:
        """The step's one message; None where the gradients are of another kind.

        Args:
            gradients: by tensor name.
            sequence: the step's number, at least 1.
        """
        parts = self.outline.parts(gradients)
        if parts is None:
            return None
        if sequence >> DIGIT != self._upper:
            self._upper = sequence >> DIGIT
            self._more = MORE if self._upper else 0
            self._around = self.outline.around(self._worker, sequence, self.asked)
        if self._around is None:
            return None
        before, behind = self._around
        return b"".join((before, DIGITS[sequence & (MORE - 1) | self._more], behind, *parts))
