"""Uploads of members' contributions that broke off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Upload:
    """What has arrived of an upload.

    Attributes:
        upload_id: its number, which the client has drawn; 0 for none.
        received: its first bytes.
    """

    upload_id: int
    received: Bytes


NOTHING = Upload(0, np.empty(0, np.uint8))


class Uploads:
    """The last upload of each member that broke off, until it is resumed or the membership ends."""

    def __init__(self) -> None:
        self._kept: dict[str, Upload] = {}

    def find_upload(self, worker: str) -> Upload:
        """What has arrived of a worker's upload; `NOTHING` if none broke off."""
        return self._kept.get(worker, NOTHING)

    def store_received(self, worker: str, upload_id: int, received: Bytes) -> None:
        """Stores what has arrived, in a buffer that nothing else is written to."""
        self._kept[worker] = Upload(upload_id, received)

    def drop_upload(self, worker: str) -> None:
        """Forgets a worker's upload."""
        self._kept.pop(worker, None)
