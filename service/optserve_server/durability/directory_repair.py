"""Repair of a data directory: what can be proved is kept, and what is lost is stated before it is done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from optserve_server.durability.directory_check import Finding
from optserve_server.durability.durability_manager import DurabilityManager, Encode
from optserve_server.durability.recovery import DamagedSession, Recovery, RestoredSession
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.session import Session
from optserve_server.sessions.session_durability import SessionDurability
from optserve_server.spec.spec_codec import SpecCodec
from optserve_server.storage.catalog import SessionFolder, SnapshotFile
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.durable_positions import POSITIONS
from optserve_server.storage.files import Disk, rename_durably
from optserve_server.storage.journal import SUFFIX

SAVE_SECONDS = 3600.0
"""Seconds that saving all sessions may take."""


@dataclass(frozen=True)
class _Part:
    """A snapshot, and the sound records that follow it."""

    file: SnapshotFile
    payloads: list[memoryview]

    @property
    def number(self) -> int:
        return self.file.number + len(self.payloads)


class Repair(Recovery):
    """Restores of each session what is sound; arguments as of `Recovery`.

    Attributes:
        steps: what is repaired, with what is lost by it. Complete after `examine` or `run`.
    """

    def __init__(
        self, root: Path, namespaces: Namespaces, codec: SpecCodec, encode: Encode, disk: Disk | None = None
    ) -> None:
        super().__init__(root, namespaces, codec, encode, disk=disk, accept_loss=True)
        self.steps: list[Finding] = []
        self._with_new_manifest: set[str] = set()
        if self._durable_positions.is_new:
            self._plan(
                self._catalog.journal / POSITIONS,
                "is replaced by another; if acknowledged changes were lost at the end of the journal, nothing"
                " shows it",
            )

    async def save_all(self, manager: DurabilityManager) -> None:
        """Saves every session, so that the journal and what is damaged in it are no longer needed."""
        await manager.free_journal()
        manager.catalog.positions.rewrite_damaged()
        await manager.close(SAVE_SECONDS)

    def _plan(self, path: Path, text: str) -> None:
        self.steps.append(Finding(path, text))

    def _check_segments(self) -> None:
        for text in self._durable_positions.damaged:
            self._plan(self._catalog.journal / POSITIONS, f"{text}; it is written again")
        present = {segment.number for segment in self._history.segments}
        for number in sorted(self._durable_positions.segments.keys() - present):
            path = self._catalog.journal / f"{number:012}{SUFFIX}"
            self._plan(path, "is missing; the sessions whose records it had follow")
            self._durable_positions.remove_segment(number)

    def _examine_all(self) -> list[RestoredSession | DamagedSession]:
        if not self._log.is_complete:
            self._plan(
                self._catalog.journal,
                "the directory's own records are damaged: a repeated request that it had answered is made"
                " again, and sessions without a folder are forgotten",
            )
        examined = super()._examine_all()
        with self._lift_limits():
            for name, places in self._catalog.list_quarantined().items():
                owner = self._log.folders.get(name)
                places = [place for place in places if SessionFolder(place, name, 0).snapshots()]
                if owner is None or not places or (self._catalog.sessions / name).exists():
                    continue
                self._plan(places[-1], f"is put back to sessions/{name}")
                examined.append(self._examine(SessionFolder(places[-1], name, owner)))
        for found in examined:
            if isinstance(found, DamagedSession):
                self._plan(found.path, f"cannot be repaired, and is or stays in quarantine: {found.cause}")
        return examined

    def _examine(self, folder: SessionFolder | tuple[str, DamagedError]) -> RestoredSession | DamagedSession:
        if not isinstance(folder, SessionFolder):
            name, _ = folder
            path = self._catalog.sessions / name
            owner = self._catalog.find_owner(path)
            expected = self._log.folders.get(name) if self._log.is_complete else owner
            if owner is not None and owner == expected:
                folder = SessionFolder(path, name, owner)
                self._with_new_manifest.add(name)
                self._plan(path / "manifest.json", "is written again; nothing is lost")
        return super()._examine(folder)

    def _restore_session(self, folder: SessionFolder) -> RestoredSession:
        """Restores what is sound of a session.

        Raises:
            DamagedError: it has no sound snapshot.
        """
        damaged = []
        for file in folder.snapshots():
            try:
                self._catalog.read_snapshot(file)
            except DamagedError as error:
                damaged.append(file)
                lost = "nothing else"
                if file.kept:
                    lost = f"the session as it was at step {file.step}, which a client asked for"
                self._plan(file.path, f"{error}; it is moved to quarantine; lost is {lost}")
        there = {file.path.name for file in folder.snapshots()}
        for path in sorted(self._log.kept):
            _, name, file_name = path.split("/")
            if name == folder.session_id and file_name not in there:
                self._plan(self._catalog.root / path, "is missing; lost is the session as it was then")
        try:
            found = super()._restore_session(folder)
        except DamagedError:
            found = self._restore_part(folder)
        found.durability.is_incomplete = True
        return replace(found, damaged_snapshots=damaged)

    def _restore_part(self, folder: SessionFolder) -> RestoredSession:
        owner = folder.owner
        self._attach_records(folder)
        records = self._history.find_records(owner)
        last = max(self._durable_positions[owner], *(found.number for found in records), 0)
        parts = [
            _Part(file, self._history.find_sound_payloads_after(owner, file.number))
            for file in folder.snapshots()
        ]
        for part in sorted(parts, key=lambda part: -part.number):
            try:
                durability = self._restore_snapshot(folder, part.file, part.payloads)
            except DamagedError:
                continue
            self._plan(folder.path, _state_loss(durability, part.number, last))
            # Records that follow are superseded by the snapshot that is written.
            durability.number = max(last, part.number)
            return RestoredSession(durability, [])
        raise DamagedError("it has no sound snapshot")

    def _replace_damaged_snapshots(self, found: RestoredSession) -> None:
        durability = found.durability
        folder = durability.folder
        place = self._catalog.sessions / folder.session_id
        if folder.path != place:
            rename_durably(self._disk, folder.path, place)
            moved = [replace(file, path=place / file.path.name) for file in found.damaged_snapshots]
            durability.folder = folder = SessionFolder(place, folder.session_id, folder.owner)
            found = replace(found, damaged_snapshots=moved)
            self._with_new_manifest.add(folder.session_id)
        if folder.session_id in self._with_new_manifest:
            self._catalog.write_manifest(folder)
        if folder.owner not in self._durable_positions:
            self._durable_positions.add_owner(folder.owner)
        super()._replace_damaged_snapshots(found)
        root = self._catalog.root
        there = {str(file.path.relative_to(root)) for file in folder.snapshots()}
        of_folder = {path for path in self._log.kept if path.split("/")[1] == folder.session_id}
        self._log.kept -= of_folder - there

    def _move_to_quarantine(self, found: DamagedSession) -> None:
        if found.path.parent != self._catalog.quarantine:
            super()._move_to_quarantine(found)


def _state_loss(durability: SessionDurability[Session], number: int, last: int) -> str:
    text = f"is restored at step {durability.session.step}"
    if last <= number:
        return f"{text}; changes that followed, if there were any, are lost"
    return f"{text}; lost are the acknowledged changes {number + 1} to {last} ({last - number})"
