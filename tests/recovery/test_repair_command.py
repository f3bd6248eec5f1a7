"""``optserve-server repair``: states what would be lost, and loses nothing else."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest

from chaos.damage import KINDS, make_directory
from optserve_server.__main__ import main
from tests.recovery.keeping import bits, house, run
from tests.recovery.test_evidence import STEPS, State, Used, remove_last_segment, remove_positions, used
from tests.support.tiers import slow_unless

__all__ = ["used"]


def repair(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    status = main(["repair", f"--data-dir={root}", *flags])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def apply(used: Used, capsys: pytest.CaptureFixture[str]) -> str:
    """Repairs a directory after a look at the plan, which changes nothing; returns what was printed."""
    before = used.tree()
    status, plan = repair(used.root, capsys)
    assert status == 1
    assert used.tree() == before
    status, text = repair(used.root, capsys, "--apply")
    assert status == 0, text
    steps = plan.splitlines()[:-1]
    assert text.splitlines() == [*steps, f"{len(steps)} steps were made; 0 findings are left"]
    assert main(["check", "--only=data", f"--data-dir={used.root}"]) == 0
    capsys.readouterr()
    return text


def test_nothing_is_wrong(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    before = used.tree()
    assert repair(used.root, capsys) == (0, "0 steps; nothing was changed: --apply makes them\n")
    assert used.tree() == before


def test_lost_changes_are_counted(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    """The last segment, which has changes of a after its last snapshot, is cut off."""
    # Behind it there may be the next segment, which has no change yet.
    last = [path for path in used.segments if path.stat().st_size > 1000][-1]
    last.write_bytes(last.read_bytes()[:200])
    text = apply(used, capsys)
    match = re.search(r"/a: is restored at step (\d+); lost are the .* (\d+) to (\d+) \((\d+)\)\n", text)
    assert match is not None
    step, first, end, count = map(int, match.groups())
    assert (first, end, count) == (step + 1, STEPS + 3, STEPS + 3 - step)
    found = used.live()
    assert found["a"] == run(make_a(used.root.with_name("model"), step))
    assert (found["b"], found["c"]) == (used.states["b"], used.states["c"])


async def make_a(root: Path, step: int) -> State:
    """The state of a after some of its steps."""
    async with house(root) as made:
        session = made.create("a")
        for number, seed in enumerate([*range(STEPS), *range(3)][:step], 1):
            worker = "w" if number <= STEPS else ""
            await made.step(session, seed, worker=worker, sequence=number if worker else 0)
        return bits(session)


def test_positions_are_replaced(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    remove_positions(used)
    text = apply(used, capsys)
    assert "journal/positions: is replaced by another; if acknowledged changes were lost" in text
    assert used.live() == used.states


def test_a_segment_is_missing(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    remove_last_segment(used)
    text = apply(used, capsys)
    assert ".journal: is missing; the sessions whose records it had follow" in text
    assert None not in used.live().values()


def test_a_damaged_record_that_no_session_needs(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    segment = used.segments[1]
    data = bytearray(segment.read_bytes())
    data[400] ^= 1
    segment.write_bytes(data)
    text = apply(used, capsys)
    assert f"{segment}: " in text
    assert "no session needs it, and it is removed" in text
    assert used.live() == used.states


def test_a_manifest_is_written_again(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    (used.root / "sessions" / "a" / "manifest.json").unlink()
    text = apply(used, capsys)
    assert "sessions/a/manifest.json: is written again; nothing is lost" in text
    assert used.live() == used.states


def test_a_session_is_put_back_from_quarantine(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    (used.root / "sessions" / "a" / "manifest.json").write_bytes(b"damaged")
    assert used.live(steps=100)["a"] is None
    text = apply(used, capsys)
    assert "is put back to sessions/a" in text
    assert used.live()["a"] == used.states["a"]


def test_snapshots_that_are_damaged_or_missing(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    (kept,) = (used.root / "sessions" / "a").glob("kept-*")
    kept.write_bytes(kept.read_bytes()[:-1])
    older = used.snapshots("b")[-1]
    older.write_bytes(older.read_bytes()[:-1])
    text = apply(used, capsys)
    assert f"lost is the session as it was at step {STEPS}, which a client asked for" in text
    assert "it is moved to quarantine; lost is nothing else" in text
    assert used.live() == used.states


def test_a_session_without_a_sound_snapshot(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (used.root / "sessions" / "c").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    status, text = repair(used.root, capsys, "--apply")
    assert status == 1
    assert "sessions/c: cannot be repaired, and is or stays in quarantine" in text
    assert used.live() == {**used.states, "c": None}


def test_a_deleted_session_does_not_come_back(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(used.root / "sessions" / "a", used.root / "sessions" / "d")
    status, text = repair(used.root, capsys, "--apply")
    assert status == 1
    assert "sessions/d: cannot be repaired" in text
    assert used.live() == used.states


@pytest.mark.parametrize("seed", slow_unless((0).__eq__, range(3)))
def test_any_damage_is_repaired_or_refused(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    state = make_directory(tmp_path / "whole", 4)
    for number in range(12):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        text, _ = KINDS[number % len(KINDS)](rng, files)
        status, printed = repair(root, capsys, "--apply")
        if status:
            refusals = ("restore", "put the right file there", "cannot be repaired")
            assert any(refusal in printed for refusal in refusals), text
            continue

        async def live(root: Path = root) -> None:
            async with house(root) as made:
                store = made.namespaces[""].store
                for session_id, arrays in state.items():
                    found = bits(store.get(session_id))
                    assert found == arrays or "lost" in printed, text  # noqa: B023

        run(live())
