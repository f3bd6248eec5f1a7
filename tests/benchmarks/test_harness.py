"""The harness itself: what it computes from times, what it writes, and that contenders agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, limited_journal, report, targets
from benchmarks.contenders.probed_server import run_probed_server
from benchmarks.contenders.remote import ContenderError, contender
from benchmarks.contenders.worker import gradients
from benchmarks.end_to_end import agree, reference
from benchmarks.limited_disk import LimitError, controller, disk_of, limit_disk
from benchmarks.options import Options
from benchmarks.phases import phase_of
from benchmarks.results import Failure, Result, Run, Spread
from benchmarks.table import noisy, table, verdicts
from benchmarks.targets import Of, Target
from benchmarks.timing import Timed, Times, interleave
from benchmarks.trends import Line, exponent, growth
from optserve._transport.data_connection import DataConnection as ClientConnection
from optserve_server.rpc.transport.data_connection import DataConnection as ServerConnection
from tests.support.server import running_server

META = {
    "date": "2026-01-01T00:00:00+00:00",
    "python": "3.11",
    "system": "Linux",
    "processor": "P",
    "cores": 2,
    "load_before": 0.0,
    "versions": {"numpy": "2"},
}
FAST = Result("end to end", "stream", 10_000, 3000.0, "steps/s", "naive gRPC", 2.5)


def run_of(*findings: Result | Failure | Spread) -> Run:
    run = Run(dict(META))
    for finding in findings:
        run.add(finding)
    return run


def test_contenders_take_turns_and_every_second_round_goes_backwards() -> None:
    calls: list[str] = []

    def make_timed(name: str) -> Timed:
        def call(repeats: int) -> float:
            calls.append(name)
            return 1.0 * repeats

        return call

    times = interleave({"a": make_timed("a"), "b": make_timed("b")}, rounds=3, seconds=0.1)
    assert calls[-6:] == ["a", "b", "b", "a", "a", "b"]
    assert times.seconds == {"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0]}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # Medians of seconds alone would say 2/2.
    times = Times({"ours": [1.0, 2.0, 30.0], "peer": [2.0, 6.0, 1.0]})
    (result, spread) = times.rates("g", "ours", 1, "steps/s", 1, "peer")
    assert isinstance(result, Result)
    assert isinstance(spread, Spread)
    assert (result.value, result.ratio) == (0.5, 2.0)
    assert (spread.low, spread.high) == (1 / 30, 3.0)
    (slower, _) = times.durations("g", "ours", 1, "peer")
    assert isinstance(slower, Result)
    assert (slower.value, slower.ratio) == (2e6, 0.5)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = run_of(FAST, Failure("g", "x", 1, "no"), Spread("end to end", "stream", 10_000, "naive gRPC", 1, 2))
    run.write(tmp_path / "bench.json")
    content = json.loads((tmp_path / "bench.json").read_text())
    assert set(content) == {"meta", "results"}
    assert set(content["results"][0]) == {"group", "name", "n", "value", "unit", "peer", "ratio"}
    assert Run.read(tmp_path / "bench.json") == run
    assert noisy(run, FAST)


def test_a_later_run_replaces_the_groups_that_it_measured() -> None:
    earlier = run_of(FAST, Result("latency", "stream", 1, 1.0, "us"))
    later = run_of(Result("latency", "stream", 1, 2.0, "us"))
    assert later.beside(earlier).results == [FAST, *later.results]


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (Target("end to end", "stream", 10_000, "naive gRPC", least=2.3), "met"),
        (Target("end to end", "stream", 10_000, "naive gRPC", least=2.6), "MISSED"),
        (Target("end to end", "stream", 10_000, "naive gRPC", most=2.5), "met"),
        (Target("end to end", "stream", 10_000, "naive gRPC", most=2.4), "MISSED"),
        (Target("end to end", "stream", 10_000, "naive gRPC", most=2.6, of=Of.VALUE), "MISSED"),
        (Target("end to end", "stream", 10_000, "gloo", least=0.1), "not measured"),
        (Target("end to end", "stream", 1_000_000, "naive gRPC", least=0.1), "not measured"),
        (Target("end to end", "stream", 10_000, "naive gRPC", least=2.3, promised=False), "would be met"),
        (Target("end to end", "stream", 10_000, "naive gRPC", least=2.6, promised=False), "would be missed"),
    ],
)
def test_promises_are_held_against_a_run(target: Target, verdict: str) -> None:
    assert [said for _, _, said in verdicts(run_of(FAST), [target])] == [verdict]


def test_every_promise_is_named_once_and_has_one_bound() -> None:
    names = [(t.group, t.name, t.n, t.peer) for t in targets.TARGETS]
    assert len(names) == len(set(names))
    assert all((t.least is None) != (t.most is None) for t in targets.TARGETS)


def test_a_table_shows_misses_and_failures() -> None:
    text = table(run_of(FAST, Failure("end to end", "Ray actor", 10_000, "Ray did not start")))
    assert "ERROR end to end, Ray actor at 10000: Ray did not start" in text
    assert any("naive gRPC at 10000" in line and line.endswith("met") for line in text.splitlines())


def test_figures_replace_what_lies_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    report.rewrite(run_of(FAST), document, tmp_path)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "| stream | 3,000 |" in text
    figures = (tmp_path / "performance_figures.csv").read_text().splitlines()
    assert "end to end,stream,10000,3000,steps/s,naive gRPC,2.5,no" in figures
    assert len((tmp_path / "performance_targets.csv").read_text().splitlines()) == 1 + len(targets.TARGETS)
    assert "old" not in text


def test_the_documentation_has_a_place_for_figures() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert text.count(report.START) == text.count(report.END) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [("ours", []), ("ours", ["--over=grpc"]), ("ours", ["--memory=in-place"]), ("naive", [])],
)
def test_contenders_take_the_steps_that_the_formula_says(module: str, arguments: list[str]) -> None:
    with contender(module, 1000, *arguments) as remote:
        agree(remote.check(), reference(1000), 1e-5)
        assert remote.time_steps(3) > 0
        remote.goes_on(0.05)
        assert remote.durations()


def test_a_line_is_the_nearest_by_least_squares_and_says_how_straight_values_are() -> None:
    sizes = [1.0, 2.0, 3.0, 4.0]
    line = Line.through(sizes, [5.0, 7.0, 9.0, 11.0])
    assert (line.fixed, line.each, line.straight) == pytest.approx((3, 2, 1))
    bent = Line.through(sizes, [1.0, 4.0, 9.0, 16.0])
    # By hand: 5n - 5 leaves 1, -1, -1, 1 of values whose squares about their mean sum up to 129.
    assert (bent.fixed, bent.each, bent.straight) == pytest.approx((-5, 5, 1 - 4 / 129))


def test_an_exponent_tells_growth_faster_than_a_line() -> None:
    sizes = [10.0**k for k in range(6, 9)]
    assert exponent(sizes, sizes) == pytest.approx(1)
    assert exponent(sizes, [n**1.2 for n in sizes]) == pytest.approx(1.2)


def simulate_memory(leak: float) -> list[float]:
    """MiB: messages that are under way, a reading that went wrong now and then, and a leak."""
    random = np.random.default_rng(5)
    under_way = random.choice([0.0, 0.0, 2.0, 4.0, 9.0], 1000) + random.normal(0, 0.1, 1000)
    wrong = -60.0 * (random.random(1000) < 0.002)
    return list(570 + under_way + wrong + leak * np.arange(1000))


@pytest.mark.parametrize("leak", [0, 1, 10, 100])
def test_growth_is_what_each_step_leaves_and_not_what_is_under_way(leak: float) -> None:
    found = growth(simulate_memory(leak / 1024), 1000)
    assert found == pytest.approx(1000 * leak / 1024, abs=0.2)


def test_a_single_rise_is_no_growth() -> None:
    assert growth([570.0] * 300 + [602.0] * 700, 1000) == 0


def test_a_server_tells_what_of_its_memory_is_in_use() -> None:
    with run_probed_server("numpy") as (server, held):
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
        assert 1 << 20 < held() <= pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["data", "grpc"])
def test_bytes_alone_come_back_as_they_went(way: str) -> None:
    with contender("chunk_stream", 300_000, way) as remote:
        np.testing.assert_array_equal(remote.check(), gradients(300_000)[2])
        assert remote.time_steps(2) > 0


def test_a_stream_that_goes_another_way_than_its_name_says_is_no_contender() -> None:
    with (
        running_server(data_port="off") as server,
        contender("ours", 1000, "--at", server.address) as remote,
        pytest.raises(ContenderError, match="were to go by data, and went by grpc"),
    ):
        remote.time_steps(1)


@pytest.mark.parametrize(
    ("function", "file", "phase"),
    [
        (ServerConnection.read, "optserve_server/rpc/transport/data_connection.py", "receive: socket"),
        (ServerConnection.write_pieces, "optserve_server/rpc/transport/data_connection.py", "send: socket"),
        (ClientConnection.receive, "optserve/data_connection.py", "receive: socket"),
        (ClientConnection.send, "optserve/data_connection.py", "send: socket"),
    ],
)
def test_sockets_have_phases(function: Callable[..., object], file: str, phase: str) -> None:
    lines = ["_run_code (<frozen runpy>:88)", f"{function.__qualname__} ({file}:60)"]
    assert phase_of(lines) == phase
    assert phase_of([*lines, f"DataConnection._ready.<locals>.<lambda> ({file}:90)"]) == phase


def test_a_message_that_is_made_while_it_is_sent_belongs_to_no_socket() -> None:
    lines = [
        "DataConnection.send (optserve/_transport/data_connection.py:71)",
        "pieces (optserve/_codec/payload.py:130)",
    ]
    assert phase_of([*lines, "Framing.join (optserve/_codec/framing.py:99)"]) == "send: encode"
    assert phase_of([*lines, "cut (optserve/_codec/chunks.py:26)"]) == "send: encode"


def test_a_partition_s_limit_is_its_disk_s(tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    partition = tmp_path / "sda" / "sda1"
    partition.mkdir(parents=True)
    (tmp_path / "sda" / "dev").write_text("8:0\n")
    (partition / "dev").write_text("8:1\n")
    link = tmp_path / f"{os.major(number)}:{os.minor(number)}"
    link.symlink_to(partition)
    assert disk_of(tmp_path, tmp_path) == "8:1"
    (partition / "partition").write_text("1\n")
    assert disk_of(tmp_path, tmp_path) == "8:0"


def test_files_that_lie_on_no_disk_cannot_be_limited() -> None:
    with pytest.raises(LimitError, match="no disk lies under /proc"), limit_disk(Path("/proc")):
        pass


@pytest.mark.parametrize(
    ("kind", "options", "handed_on", "limit"),
    [
        ("cgroup", "rw,blkio", "", "8:0 1500"),
        ("cgroup2", "rw", "cpu io memory", "8:0 wiops=1500"),
    ],
)
def test_both_versions_of_control_groups_are_told_in_their_way(
    tmp_path: Path, kind: str, options: str, handed_on: str, limit: str
) -> None:
    (tmp_path / "cgroup.controllers").write_text(handed_on)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"proc /proc proc rw 0 0\ncgroup {tmp_path} {kind} {options} 0 0\n")
    found = controller(mounts)
    assert found.root == tmp_path
    assert found.limit.format(device="8:0", writes=1500) == limit
    assert set(found.enabled) <= set(handed_on.split())


def test_without_the_block_layer_s_controller_there_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a {tmp_path} cgroup rw,cpu 0 0\nb {tmp_path} cgroup2 rw 0 0\n")
    with pytest.raises(LimitError, match="no control groups of the block layer"):
        controller(mounts)


def test_a_limit_that_cannot_be_had_is_an_error_of_each_row() -> None:
    found = list(limited_journal.run(Path("/proc"), Options(rounds=1, seconds=0.01)))
    names = [f.name for f in found if isinstance(f, Failure) and "no disk" in f.error]
    assert names == [f"JOURNAL, {limit}00 writes/s, 16 clients" for limit in ("1,5", "3,0")]
    assert set(names) <= {target.name for target in targets.TARGETS}


def test_a_disk_that_takes_more_than_its_limit_is_no_limited_disk() -> None:
    names = [
        f.name for f in limited_journal.findings(1500, [(400.0, 300.0, 1500.0)]) if isinstance(f, Result)
    ]
    assert names[0] == "write and fdatasync, 1,500 writes/s"
    assert len(names) == 3
    (failure,) = limited_journal.findings(1500, [(2000.0, 300.0, 1500.0)])
    assert isinstance(failure, Failure)
    assert "2000 records a second" in failure.error


def test_the_disk_s_own_rate_is_of_records_that_were_written(tmp_path: Path) -> None:
    with contender("writer", 1000, tmp_path / "written") as writer:
        assert writer.time_steps(3) > 0
    assert (tmp_path / "written").read_bytes() == 6 * gradients(1000)[0].tobytes()


def test_wrong_parameters_are_noticed() -> None:
    with pytest.raises(AssertionError, match="wrong parameters"):
        agree(reference(100) * np.float32(1.001), reference(100), 1e-5)


def test_a_contender_that_ends_says_why() -> None:
    with pytest.raises(ContenderError, match="no number"), contender("naive", "no number"):
        pass


def test_the_gpu_group_runs_dry() -> None:
    options = Options(rounds=1, seconds=0.001, dry_run=True)
    found = list(gpu.run(options))
    assert {f.group for f in found} == {"gpu, dry run"}
    names = {f.name for f in found if isinstance(f, Result)}
    assert {"numpy Adam", "device copy", "round trip", "bus limit"} <= names
