"""``optserve-server check``: finds what is wrong, and changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from optserve_server.__main__ import main
from optserve_server.state.session_change import Request
from tests.recovery.keeping import house, run
from tests.recovery.test_evidence import POLICY, Used, used

__all__ = ["used"]


def check(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["check", "--only=data", f"--data-dir={root}"])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_a_directory_of_a_killed_server(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    before = used.tree()
    assert check(used.root, capsys) == (0, "data      ok       3 sessions are whole; 0 findings\n")
    assert used.tree() == before
    used.live(steps=30)
    assert check(used.root, capsys)[0] == 0


def test_an_automatic_snapshot_that_a_client_deleted_is_not_missed(
    used: Used, capsys: pytest.CaptureFixture[str]
) -> None:
    async def live() -> None:
        async with house(used.root, policy=POLICY) as made:
            durability = made.namespaces[""].store.get("b").durability
            assert durability is not None
            files = [file for file in durability.folder.snapshots() if file.step == 0]
            assert [file.kept for file in files] == [False]
            await made.durability_manager.delete_snapshots(durability, files, Request("drop", b"content"))
            shutil.copytree(used.root, used.root.with_name("dropped"))

    assert used.snapshots("b")[-1].name == "auto-000000000000-0.safetensors"
    run(live())
    assert check(used.root.with_name("dropped"), capsys)[0] == 0


def test_what_is_wrong_is_named(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    older, segment = used.snapshots("a")[1], used.segments[0]
    older.write_bytes(older.read_bytes()[:-1])
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)
    used.snapshots("c")[0].unlink()
    before = used.tree()
    status, text = check(used.root, capsys)
    assert status == 1
    assert text.startswith("data      failed   2 sessions are whole; ")
    assert f"{older}: it is cut off, or too long" in text
    assert f"{segment}: bytes " in text
    assert f"{used.root}/sessions/c: " in text
    assert used.tree() == before


def test_what_all_sessions_depend_on(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    (used.root / "journal" / "positions").unlink()
    status, text = check(used.root, capsys)
    assert status == 1
    assert text.startswith(f"data      failed   {used.root}/journal/positions is missing")


def test_a_session_in_quarantine(used: Used, capsys: pytest.CaptureFixture[str]) -> None:
    (used.root / "sessions" / "a" / "manifest.json").write_bytes(b"damaged")
    (used.root / "sessions" / "b").rename(used.root.with_name("b"))
    assert "sessions/b: the folder of the session is missing" in check(used.root, capsys)[1]
    used.live()
    status, text = check(used.root, capsys)
    assert status == 1
    assert ": the session is in quarantine\n" in text
    assert "sessions/b: the folder of the session is missing" in text


def test_a_directory_in_use_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def live() -> tuple[int, str]:
        async with house(tmp_path / "data"):
            return check(tmp_path / "data", capsys)

    status, text = run(live())
    assert status == 1
    assert "in use by another server" in text
    assert main(["check", "--only=data"]) == 2
    assert "data_dir is not set" in capsys.readouterr().err
    assert main(["check", "--only=data", f"--data-dir={tmp_path / 'none'}"]) == 2
    assert "is no directory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
