"""Writes a data directory as this version does, for later versions to open.

    python -m tests.recovery.write_format

Run it once for each format that is released, and commit the file. The server of the directory was killed:
its journal has records that no snapshot holds.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from optserve_server.durability.change_records import ReportChange
from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.optimizers.momentum import Momentum
from optserve_server.sessions.session import Session
from optserve_server.spec.early_stopping import EarlyStoppingSpec
from optserve_server.spec.plateau import ReduceOnPlateauSpec
from optserve_server.spec.session_spec import (
    DurabilityMode,
    GradientSpec,
    ParameterGroup,
    SessionSpec,
    WeightAverageSpec,
)
from optserve_server.state.session_change import Request
from optserve_server.storage.directory_format import FORMAT
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from tests.recovery.keeping import bits, house, run

FORMATS = Path(__file__).parent / "formats"
EXPECTED = "expected.json"
"""Name of the description of the sessions, beside the folder ``data``."""

POLICY = SnapshotPolicy(generations=2, segment_bytes=4000, journal_bytes=1 << 20)
SESSIONS = {"everything": "", "snapshot": "", "plain": "team"}
"""Namespaces of the sessions, by id."""

_EVERYTHING = SessionSpec(
    optimizer=Chosen(Adam()),
    gradient=GradientSpec(accumulation_steps=2, l2=0.1),
    weight_average=WeightAverageSpec(decay=0.9),
    groups=(
        ParameterGroup(name="slow", tensors=("b",), learning_rate_factor=0.1, optimizer=Chosen(Momentum())),
    ),
    reduce_on_plateau=ReduceOnPlateauSpec(monitor="loss", patience=1),
    early_stopping=EarlyStoppingSpec(monitor="loss", patience=100, restore_best=True),
)


def describe(session: Session) -> dict[str, Any]:
    """What a session is: every bit of its arrays, its specification, and what its workers send next."""
    parts = {name: data.hex() for name, data in bits(session).items()}
    return {
        "step": session.step,
        "arrays": {name: data for name, data in parts.items() if not name.startswith("history/")},
        "history": {name: data for name, data in parts.items() if name.startswith("history/")},
        "spec": SPEC_TEXT.encode(session.spec),
        "next_sequence": session.step_deduplication.next_sequence("w"),
        "learning_rate_factor": session.monitors.learning_rate_factor,
    }


def write(root: Path) -> dict[str, Any]:
    """Writes a directory to ``root``, which does not exist; returns the descriptions of its sessions."""

    async def live(home: Path) -> dict[str, Any]:
        async with house(home, policy=POLICY) as made:
            request = Request("create", b"content")
            sessions = [
                made.create("everything", request=request, spec=_EVERYTHING),
                made.create("snapshot", mode=DurabilityMode.SNAPSHOT),
                made.create("plain", "team"),
            ]
            for number in range(12):
                for session in sessions:
                    await made.step(session, number, worker="w", sequence=number + 1)
                await made.change(sessions[0], ReportChange({"loss": 1.0 + number}))
                if number in (3, 7):
                    for session in sessions:
                        assert session.durability is not None
                        kept = Request(f"{session.id}{number}", b"content") if number == 7 else None
                        await made.durability_manager.save_session(session.durability, asked=kept)
            assert sessions[1].durability is not None
            await made.durability_manager.save_session(sessions[1].durability)
            shutil.copytree(home, root)
            return {session.id: describe(session) for session in sessions}

    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = run(live(Path(folder)))
    return found


def main() -> None:
    """Writes the file of this format."""
    path = FORMATS / f"{FORMAT}.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        expected = write(Path(folder, "data"))
        Path(folder, EXPECTED).write_text(json.dumps(expected), encoding="utf-8")
        with tarfile.open(path, "w:gz") as archive:
            for name in ("data", EXPECTED):
                archive.add(Path(folder, name), name)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
