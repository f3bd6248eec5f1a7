"""Compares a journal with what workers contributed and with what was acknowledged to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chaos.crash_workers.contributions import VALUES, gradient
from chaos.model import Arrays
from optserve_server.durability.directory_log import DIRECTORY
from optserve_server.optimizers.adam import Adam
from optserve_server.state.session_change import ChangeKind
from optserve_server.storage.catalog import VERSION
from optserve_server.storage.directory_format import parse_version
from optserve_server.storage.durable_positions import POSITIONS, DurablePositions
from optserve_server.storage.files import Disk
from optserve_server.storage.journal_history import read_journal
from optserve_server.storage.record_payload import unpack_payload
from tests.service.sessions.support import parameters, session_of, spec_of, step


@dataclass(frozen=True)
class Committed:
    """A contribution in the journal.

    Attributes:
        sequence: its number.
        step: the session's step after it.
        outcome: APPLIED or DROPPED.
    """

    sequence: int
    step: int
    outcome: str


Array = npt.NDArray[Any]

Key = tuple[str, int, int]
"""A contribution: worker, epoch, and how many of that epoch precede it, plus one."""


class Replay:
    """Makes the committed changes again, from gradients of its own, in a session without coordination.

    Attributes:
        committed: the contributions.
        step: the session's step.
        steps_of: how many contributions made each step.
    """

    def __init__(self) -> None:
        self._session = session_of(spec_of(Adam()), VALUES)
        self._epochs: dict[str, int] = {}
        self._next_epoch = 1
        self._sequences: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self.committed: dict[Key, Committed] = {}
        self.step = 0

    def make(self, payload: memoryview) -> None:
        """Makes a change again.

        Raises:
            AssertionError: it should not have been committed.
        """
        facts, buffers = unpack_payload(payload)
        kind = facts["kind"]
        if kind == ChangeKind.JOIN:
            self._epochs[facts["worker"]] = self._next_epoch
            self._numbers[facts["worker"]] = 0
            self._next_epoch += 1
        elif kind == ChangeKind.END_MEMBERSHIPS:
            for worker, epoch in facts["members"]:
                assert self._epochs.pop(worker) == epoch, f"{worker} is no member in epoch {epoch}"
        elif kind == ChangeKind.AGGREGATE:
            given = [(share[0], share[1]) for share in facts["shares"]]
            self._apply(given, facts["tensors"], buffers)
        elif kind == ChangeKind.CONTRIBUTION:
            given = [(facts["options"]["worker"], facts["options"]["sequence"])]
            self._apply(given, facts["tensors"], buffers)
        elif kind == ChangeKind.DROPPED:
            self._commit([(facts["worker"], facts["sequence"])], "DROPPED")
        else:
            assert kind == ChangeKind.CREATE, f"a change of another kind: {kind}"

    def parameters(self) -> Arrays:
        """The parameters now."""
        return parameters(self._session)

    def _apply(
        self,
        given: Sequence[tuple[str, int]],
        tensors: Iterable[tuple[str, str]],
        buffers: Sequence[memoryview],
    ) -> None:
        """Takes one step of the mean of contributions, which are added in the order of the record."""
        self.step += 1
        gradients = [gradient(*key) for key in self._commit(given, "APPLIED")]
        mean = {name: _mean([each[name] for each in gradients]) for name in VALUES}
        recorded = b"".join(buffers)
        assert recorded == b"".join(mean[name].tobytes() for name, _ in tensors), (
            f"step {self.step} is not the mean of what {given} contributed in their epochs"
        )
        step(self._session, mean)

    def _commit(self, given: Sequence[tuple[str, int]], outcome: str) -> list[Key]:
        keys = []
        for worker, sequence in given:
            assert worker in self._epochs, f"{worker} was fenced, and contributed to step {self.step}"
            expected = self._sequences.get(worker, 0) + 1
            assert sequence == expected, f"{worker}: {sequence} was committed instead of {expected}"
            self._sequences[worker] = sequence
            self._numbers[worker] += 1
            key = (worker, self._epochs[worker], self._numbers[worker])
            self.committed[key] = Committed(sequence, self.step, outcome)
            keys.append(key)
        return keys


@dataclass(frozen=True)
class Ledger:
    """Answers that the workers received.

    Attributes:
        acknowledged: contributions that were answered.
        answered_at: the monotonic time of the first answer of each step.
        fenced: how often a worker was.
    """

    acknowledged: Mapping[Key, Committed]
    answered_at: Mapping[int, float]
    fenced: int


def replay_journal(data_dir: Path) -> Replay:
    """The journal of the only session of a server that has ended, made again.

    Raises:
        AssertionError: something was committed twice, or after its epoch had ended.
    """
    replay = Replay()
    for payload in _payloads(data_dir / "journal"):
        replay.make(payload)
    return replay


def read_ledgers(folder: Path) -> Ledger:
    """What the workers noted; a line that a kill cut off does not count.

    Raises:
        AssertionError: one contribution was acknowledged twice.
    """
    acknowledged: dict[Key, Committed] = {}
    answered_at: dict[int, float] = {}
    fenced = 0
    for path in folder.glob("*.ledger"):
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            facts = json.loads(line)
            if facts.get("fenced"):
                fenced += 1
                continue
            key = (facts["worker"], facts["epoch"], facts["number"])
            assert key not in acknowledged, f"{key} was acknowledged twice"
            acknowledged[key] = Committed(facts["sequence"], facts["step"], facts["outcome"])
            if facts["outcome"] == "APPLIED":
                answered_at[facts["step"]] = min(facts["at"], answered_at.get(facts["step"], facts["at"]))
    return Ledger(acknowledged, answered_at, fenced)


def check_acknowledged(replay: Replay, ledger: Ledger) -> None:
    """Compares.

    Raises:
        AssertionError: an acknowledged contribution is not committed, or was something else.
    """
    for key, told in ledger.acknowledged.items():
        found = replay.committed.get(key)
        assert found == told, f"{key} was acknowledged as {told}, and is {found} in the journal"


def check_parameters(replay: Replay, found: Mapping[str, Any], step_number: int) -> None:
    """Compares parameters bit for bit.

    Raises:
        AssertionError: they differ.
    """
    assert step_number == replay.step, f"the session is at step {step_number} instead of {replay.step}"
    for name, array in replay.parameters().items():
        assert array.tobytes() == np.asarray(found[name]).tobytes(), f"{name} differs"


def _payloads(journal: Path) -> Iterator[memoryview]:
    disk = Disk()
    directory = parse_version(journal.parent / VERSION, (journal.parent / VERSION).read_text())
    history = read_journal(disk, journal, directory)
    positions = DurablePositions(disk, journal / POSITIONS, directory)
    try:
        owners = {owner for segment in history.segments for owner in segment.last} - {DIRECTORY}
        assert len(owners) == 1, owners
        yield from history.find_payloads_after(owners.pop(), 0, positions)
    finally:
        positions.close()


def _mean(arrays: Sequence[Array]) -> Array:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= total.dtype.type(len(arrays))
    return total
