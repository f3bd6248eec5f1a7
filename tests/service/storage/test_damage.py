"""Torn writes and flipped bits: what is read is right, or an error is reported."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optserve_server.storage import snapshot
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.directory_format import DirectoryError
from optserve_server.storage.snapshot import TensorSource
from tests.service.storage.journals import payloads, writing

OWNERS = (7, 8, 9)
COUNT = 4


def list_expected(owner: int) -> list[bytes]:
    return [bytes([owner, number]) * (20 * number + owner) for number in range(1, COUNT + 1)]


@functools.cache
def journal() -> dict[str, bytes]:
    """A journal's files by name."""
    with tempfile.TemporaryDirectory() as folder:
        with writing(Path(folder), segment_bytes=600) as writer:
            for number in range(1, COUNT + 1):
                for owner in OWNERS:
                    assert writer.append(owner, number, list_expected(owner)[number - 1]) is None
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.stat().st_size}


def damage(data: bytes, how: str, place: int, count: int) -> bytes:
    """``data`` cut off at ``place``, or with ``count`` bytes there changed, zeroed, lost or doubled."""
    place %= len(data)
    stop = min(place + count, len(data))
    middle = {
        "flip": bytes(byte ^ (1 << (place % 8)) for byte in data[place:stop]),
        "zero": bytes(stop - place),
        "lose": b"",
        "double": data[place:stop] * 2,
    }
    return data[:place] if how == "cut" else data[:place] + middle[how] + data[stop:]


HOWS = st.sampled_from(["cut", "flip", "zero", "lose", "double"])


@settings(max_examples=300, deadline=None)
@given(st.data(), HOWS, st.integers(0, 1 << 20), st.integers(1, 200))
def test_a_damaged_journal(data: st.DataObject, how: str, place: int, count: int) -> None:
    files = dict(journal())
    name = data.draw(st.sampled_from(sorted(files)))
    files[name] = damage(files[name], how, place, count)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            Path(folder, path).write_bytes(content)
        sound = 0
        for owner in OWNERS:
            try:
                assert payloads(Path(folder), owner) == list_expected(owner)
                sound += 1
            except DamagedError:
                pass
            except DirectoryError:
                assert name == "positions"
                return
        if name == "positions" and how in ("flip", "zero"):
            assert sound == len(OWNERS)


VALUES: dict[str, np.ndarray] = {
    "parameter/w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "slot/m/w": np.ones((3, 4), np.float32),
    "parameter/d": np.arange(5, dtype=np.float64),
    "parameter/empty": np.zeros((0, 3), np.float32),
    "parameter/scalar": np.array(4.0, np.float64),
}


@functools.cache
def write_journal() -> bytes:
    pieces: list[bytes] = []
    sources = [TensorSource(n, a.dtype, a.shape, functools.partial(np.copy, a)) for n, a in VALUES.items()]
    snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), sources, {"optserve": '{"a": 1}'})
    return b"".join(pieces)


def test_a_snapshot_comes_back() -> None:
    contents = snapshot.read_snapshot(memoryview(write_journal()))
    assert contents.metadata == {"optserve": '{"a": 1}'}
    assert contents.tensors.keys() == VALUES.keys()
    for name, value in VALUES.items():
        found = contents.tensors[name]
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()


@settings(max_examples=500, deadline=None)
@given(HOWS, st.integers(0, 1 << 20), st.integers(1, 200))
@example("cut", 0, 1)
def test_a_damaged_snapshot(how: str, place: int, count: int) -> None:
    data = damage(write_journal(), how, place, count)
    try:
        contents = snapshot.read_snapshot(memoryview(data))
    except DamagedError:
        assert data != write_journal()
        return
    assert contents.metadata == {"optserve": '{"a": 1}'}
    for name, value in VALUES.items():
        assert contents.tensors[name].tobytes() == value.tobytes()
