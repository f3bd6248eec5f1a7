"""The outlines of a stream's steps, one for each way that they go."""

from __future__ import annotations

from numpy.typing import DTypeLike

from optserve.layout import Layout
from optserve.outline import Outline
from optserve.parameters import Pull
from optserve.payload import Payload
from optserve.shared_steps import SharedOutline
from optserve.sharing import Sharing
from optserve.sparse import AnyGradients
from optserve.steps import Wishes, request


class Outlines:
    """Makes gradients ready to be sent, by the outline of the step before where they are alike.

    Args:
        name: of the session.
        layout: of the session.
        pull: what to send back with each answer.
        wire_dtype: element type of gradients; None for what is given.
        sharing: memory that steps may lie in.
    """

    def __init__(
        self, name: str, layout: Layout, pull: Pull | None, wire_dtype: DTypeLike | None, sharing: Sharing
    ) -> None:
        self._name, self._layout = name, layout
        self._pull, self._wire_dtype, self._sharing = pull, wire_dtype, sharing
        self._kept: dict[bool, Outline] = {}  # of steps in memory, and of others

    def of(self, gradients: AnyGradients, copy: bool, shared: bool) -> tuple[Outline, Payload]:
        """A step's outline and its gradients.

        Args:
            gradients: as the caller gave them.
            copy: whether they are copied; see `Outline.payload`.
            shared: whether they are to lie in memory, where the server shares some.
        """
        outline = self._kept.get(shared)
        payload = outline.payload(gradients, copy) if outline is not None else None
        if outline is None or payload is None:
            return self._made(gradients, copy, shared)
        return outline, payload

    def holds(self, outline: Outline) -> bool:
        """Whether an outline may serve the next step, too."""
        return outline in self._kept.values()

    def forget_shared(self) -> None:
        """Drops what lies in memory."""
        self._kept.pop(True, None)

    def _made(self, gradients: AnyGradients, copy: bool, shared: bool) -> tuple[Outline, Payload]:
        given = Payload.of_gradients(self._layout, gradients, self._wire_dtype)
        memory = self._sharing.memory(given, self._pull) if shared else None
        options = Wishes(pull=self._pull).message(self._layout)
        payload = given.uniform()
        message = request(self._name, options, payload)
        outline: Outline
        if memory is not None:
            outline = made = SharedOutline(message, gradients, given, memory)
            payload = made.placed(given)
        else:
            outline = Outline(message, gradients, payload)
            payload = payload.copied() if copy else payload
        self._kept.pop(shared, None)
        if not payload.rows:
            self._kept[memory is not None] = outline
        return outline, payload
