"""The client's small parts by themselves."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest

from optserve import Retry, errors, progress
from optserve._codec import chunks, dtypes
from optserve._codec.framing import ChunkView
from optserve._transport.retry import Deadline, transfer_timeout
from optserve._transport.watchdog import Watchdog


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [3, 0, 5], [1 << 20], [(1 << 20) + 1], [5, 1 << 21, 7], [1 << 19] * 5]
)
def test_bytes_survive_being_cut_and_joined(sizes):
    arrays = [np.arange(size, dtype=np.uint8) for size in sizes]
    told: list[int] = []
    cut = list(chunks.cut_chunks((memoryview(array) for array in arrays), told.append))
    total = sum(sizes)
    assert told == [chunk.byte_count for chunk in cut]
    assert all(length == chunks.CHUNK_BYTES for length in told[:-1])
    joined = chunks.Joined(total)
    for chunk in cut:
        assert not joined.is_complete
        joined.add_chunk(ChunkView(chunk.byte_offset, memoryview(b"".join(chunk.parts))))
    assert joined.is_complete
    assert joined.buffer.tobytes() == b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize("chunk", [(1, b"ab"), (0, b"abcde")])
def test_chunks_that_do_not_fit_are_refused(chunk):
    joined = chunks.Joined(4)
    with pytest.raises(ValueError, match="a chunk"):
        joined.add_chunk(ChunkView(chunk[0], memoryview(chunk[1])))


@pytest.mark.parametrize("dtype", dtypes.SUPPORTED)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_arrays_survive_the_wire(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    back = dtypes.from_tensor(dtypes.to_tensor(array))
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert dtypes.view_bytes(array).tobytes() == array.tobytes()
    assert back.flags.writeable


def test_arrays_are_copied_only_where_they_must_be():
    array = np.ones((2, 3), np.float32)
    assert np.shares_memory(dtypes.as_array(array, dtypes.WIRE_DTYPES, "x"), array)
    assert dtypes.as_array(array.T, dtypes.WIRE_DTYPES, "x").flags.c_contiguous
    swapped = dtypes.as_array(array.astype(">f4"), dtypes.WIRE_DTYPES, "x")
    assert (swapped.dtype, swapped.tobytes()) == (np.float32, array.tobytes())
    assert dtypes.as_array([0.5, 1], dtypes.WIRE_DTYPES, "x").dtype == np.float64
    assert dtypes.check_dtype("bfloat16", dtypes.WIRE_DTYPES) == ml_dtypes.bfloat16


def test_pauses_grow_within_bounds_and_follow_the_server():
    retry = Retry(initial=0.1, maximum=1.0, multiplier=2.0, jitter=0.5)
    error = errors.Unavailable("gone")
    for attempt, longest in enumerate([0.1, 0.2, 0.4, 0.8, 1.0, 1.0], 1):
        pauses = [retry.compute_delay(attempt, error) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert retry.compute_delay(1, errors.Unavailable("gone", retry_after=7.0)) == 7.0


def test_a_deadline_grows_with_what_is_sent():
    assert transfer_timeout(60, 0) == 60
    assert transfer_timeout(60, 10**9) == 160
    assert Deadline(-1).remaining() == 0


def test_the_watchdog_cancels_what_outlasts_its_deadline_and_nothing_else():
    watchdog, cancelled = Watchdog(), threading.Event()
    watchdog.watch("a", Deadline(30).at, cancelled.set)
    watchdog.stop_watching("a")
    watchdog.watch("a", Deadline(0.05).at, cancelled.set)
    assert cancelled.wait(10)
    watchdog.stop_watching("a")
    cancelled.clear()
    for _ in range(20):
        watchdog.watch("a", Deadline(0.05).at, cancelled.set)
        time.sleep(0.005)
        watchdog.stop_watching("a")
    assert not cancelled.wait(0.1)
    watchdog.close()


def test_the_watchdog_cancels_each_of_several_waits_at_its_own_time():
    watchdog, order, over = Watchdog(), [], threading.Event()
    for name, seconds in [("late", 0.2), ("early", 0.05), ("never", 60), ("later", 0.3)]:
        cancel = over.set if name == "later" else None
        at = Deadline(seconds).at
        watchdog.watch(name, at, lambda n=name, c=cancel: (order.append(n), c and c()))
    watchdog.stop_watching("never")
    assert over.wait(10)
    assert order == ["early", "late", "later"]
    watchdog.close()


def test_the_watchdog_misses_no_deadline():
    """Waits begin and end without a lock, at every moment of the thread's own work."""
    watchdog, cancelled = Watchdog(), threading.Event()
    for i in range(300):
        for _ in range(i % 7):
            watchdog.watch("a", Deadline(0.001).at, cancelled.set)
            watchdog.stop_watching("a")
        cancelled.clear()  # which a wait may have set that ended as it was over
        watchdog.watch("a", Deadline(0.0005 * (i % 4)).at, cancelled.set)
        assert cancelled.wait(10)
        watchdog.stop_watching("a")
    watchdog.close()


def list_modules_after(code: str) -> set[str]:
    """The modules and packages of the client that a new process has loaded after ``code``."""
    script = f"{code}; import sys; print(*[n for n in sys.modules if n.startswith('optserve.')])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[1] for name in found.split()}


def test_importing_the_client_loads_neither_plotting_nor_the_command_line():
    loaded = list_modules_after("import optserve; optserve.connect")
    assert "_engine" in loaded
    assert not loaded & {"plotting", "commands"}


def test_the_server_loads_messages_and_framing_alone():
    assert list_modules_after("import optserve_server.app") == {"_codec", "event_engine", "v1"}


def test_without_tqdm_bars_are_silent_unless_they_are_wanted(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(progress.make_progress_bar("x", progress.LARGE, None), progress.Silent)
    with pytest.raises(ImportError):
        progress.make_progress_bar("x", 1, True)


def test_large_transfers_show_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.make_progress_bar("x", progress.LARGE, None) as shown:
        assert not isinstance(shown, progress.Silent)
    assert isinstance(progress.make_progress_bar("x", progress.LARGE - 1, None), progress.Silent)
    assert isinstance(progress.make_progress_bar("x", progress.LARGE, False), progress.Silent)
