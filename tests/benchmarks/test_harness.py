"""The harness itself: what it computes from times, what it writes, and that contenders agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import optserve
from benchmarks import (
    against,
    gpu,
    heavy_calls,
    languages,
    layers,
    neighbours,
    report,
    torch_training,
    workers,
)
from benchmarks.bounds import BOUNDS, EARLIER, Bound, verdicts
from benchmarks.contenders.probed_server import run_probed_server
from benchmarks.contenders.remote import ContenderError, contender
from benchmarks.contenders.worker import gradients
from benchmarks.end_to_end import agree, reference
from benchmarks.options import Options
from benchmarks.results import Failure, Result, Run, Spread
from benchmarks.table import noisy, table
from benchmarks.timing import Timed, Times, interleave
from benchmarks.trends import Line, exponent, growth
from tests.conformance.drivers import DRIVERS
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
    assert set(content["results"][0]) == {"group", "name", "n", "value", "unit", "peer", "ratio", "note"}
    assert Run.read(tmp_path / "bench.json") == run
    assert noisy(run, FAST)


def test_a_later_run_replaces_the_groups_that_it_measured() -> None:
    earlier = run_of(FAST, Result("latency", "stream", 1, 1.0, "us"))
    later = run_of(Result("latency", "stream", 1, 2.0, "us"))
    assert later.beside(earlier).results == [FAST, *later.results]


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [
        (Bound("end to end", "stream", 10_000, "naive gRPC", least=2.3), "met"),
        (Bound("end to end", "stream", 10_000, "naive gRPC", least=2.6), "MISSED"),
        (Bound("end to end", "stream", 10_000, "naive gRPC", most=2.5), "met"),
        (Bound("end to end", "stream", 10_000, "naive gRPC", most=2.4), "MISSED"),
        (Bound("end to end", peer="naive gRPC", most=2.4), "MISSED"),
        (Bound("end to end", "stream", 10_000, "gloo", least=0.1), "not measured"),
        (Bound("end to end", "stream", 1_000_000, "naive gRPC", least=0.1), "not measured"),
    ],
)
def test_a_run_is_compared_with_bounds(bound: Bound, verdict: str) -> None:
    assert [said for _, _, said in verdicts(run_of(FAST), (bound,))] == [verdict]


def test_a_bound_holds_for_every_call_or_for_any_size() -> None:
    calls = [
        Result("heavy calls", name, 50, value, "ms") for name, value in (("pull", 3.0), ("create", 30.0))
    ]
    found = list(verdicts(run_of(*calls), (Bound("heavy calls", most=20),)))
    assert [(r.name, said) for _, r, said in found if r is not None] == [
        ("pull", "met"),
        ("create", "MISSED"),
    ]
    sizes = [Result("against", "data", n, 1.0, "steps/s", "gRPC", ratio) for n, ratio in ((1, 1.1), (2, 1.5))]
    any_size = Bound("against", "data", None, "gRPC", least=1.3, is_any=True)
    assert [said for _, _, said in verdicts(run_of(*sizes), (any_size,))] == ["met"]
    assert [said for _, _, said in verdicts(run_of(*sizes[:1]), (any_size,))] == ["MISSED"]


def test_every_bound_is_of_a_figure_that_a_run_has() -> None:
    names = {
        *(
            f"{transport}, {call}"
            for transport in against.TRANSPORTS
            for call in ("stream", "pipelined", "handle")
        ),
        *("unary", "journalled, stream", "data connection"),
    }
    assert {b.name for b in BOUNDS if b.group == against.GROUP} == names
    assert {b.group for b in BOUNDS} == {
        against.GROUP, layers.GROUP, languages.GROUP, heavy_calls.GROUP, heavy_calls.HEALTH_GROUP,
        neighbours.GROUP, torch_training.WHOLE, workers.GROUP, workers.SLOW_GROUP,
    }  # fmt: skip
    peers = {b.peer for b in BOUNDS if b.group in (workers.GROUP, workers.SLOW_GROUP)}
    assert peers == {workers.RAY, workers.FLOWER, workers.ALONE}


def test_a_table_shows_misses_and_failures() -> None:
    unary = Result("against", "unary", 10_000, 900.0, "steps/s", EARLIER, 1.2)
    text = table(run_of(unary, Failure("end to end", "Ray actor", 10_000, "Ray did not start")))
    assert "ERROR end to end, Ray actor at 10000: Ray did not start" in text
    (line,) = [line for line in text.splitlines() if line.startswith(f"against: unary / {EARLIER} at 10000")]
    assert line.split()[-4:] == [">=", "1.3", "1.2", "MISSED"]


def test_figures_replace_what_lies_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    report.rewrite(run_of(FAST), document, tmp_path)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "| stream | 3,000 |" in text
    figures = (tmp_path / "performance_figures.csv").read_text().splitlines()
    assert "end to end,stream,10000,3000,steps/s,naive gRPC,2.5,no," in figures
    assert len((tmp_path / "performance_bounds.csv").read_text().splitlines()) == 1 + len(BOUNDS)
    assert "old" not in text


def test_the_documentation_has_a_place_for_figures() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert text.count(report.START) == text.count(report.END) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        *(("ours", [f"--over={over}"]) for over in ("grpc", "data", "shared", "in-place")),
        *(("ours", [f"--call={call}"]) for call in ("pipelined", "handle", "unary")),
        ("naive", []),
    ],
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
    with run_probed_server("numpy") as (server, probe):
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
        assert 1 << 20 < probe.resident_bytes() <= pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["echo", "raw_socket"])
def test_bytes_alone_come_back_as_they_went(module: str) -> None:
    with contender(module, 300_000) as remote:
        np.testing.assert_array_equal(remote.check(), gradients(300_000)[2])
        assert remote.time_steps(2) > 0


def test_a_client_that_falls_back_to_another_transport_is_no_contender() -> None:
    with (
        running_server(data_port="off") as server,
        contender("ours", 1000, "--at", server.address) as remote,
        pytest.raises(ContenderError, match="steps go over gRPC"),
    ):
        remote.time_steps(1)


@pytest.mark.slow
def test_an_extracted_revision_serves_its_own_packages(tmp_path: Path) -> None:
    variables = against.extract("HEAD", tmp_path)
    command = [
        sys.executable,
        "-c",
        "import optserve, optserve_server; print(optserve.__file__, optserve_server.__file__)",
    ]
    printed = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(tmp_path)) for path in printed.stdout.split())
    with (
        running_server(variables=variables) as server,
        contender("ours", 1000, "--at", server.address, **variables) as remote,
    ):
        agree(remote.check(), reference(1000), 1e-5)


@pytest.mark.slow
def test_layers_are_sampled_on_both_sides() -> None:
    found = [
        f
        for f in layers.run(Options(rounds=1, seconds=0.2, sizes=(10_000,), heavy=False))
        if isinstance(f, Result)
    ]
    shares = {f.name: f.value for f in found if f.unit == "%"}
    assert set(shares) == {
        f"{side}, {layer}" for side in ("server", "client", "both") for layer in layers.LAYERS
    }
    for side in ("server", "client", "both"):
        assert sum(shares[f"{side}, {layer}"] for layer in layers.LAYERS) == pytest.approx(100)
    assert all(shares[f"both, {layer}"] > 0 for layer in ("C core", "Cython", "ours"))
    assert shares["client, asyncio"] == 0


def test_a_sampler_tells_python_from_compiled_code() -> None:
    program = """
import time, numpy as np
from benchmarks.contenders.sampler import Sampler
sampler, values = Sampler(), np.ones(100_000)
for work in (lambda: sum(range(10_000)), lambda: np.sqrt(values)):
    sampler.start()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        work()
    found, functions = sampler.stop()
    print(max(found, key=found.get))
    print(functions[0][0].split()[0] if functions else "none")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:3] == ["ours", "<lambda>", "kernels"]


def test_a_held_event_loop_is_explained_by_what_ran_in_it() -> None:
    spans = [(0.0, 0.01), (1.0, 1.5)]
    samples = [
        (0.005, "fast (a.py:1)"),
        (1.1, "slow (b.py:2)"),
        (1.2, "slow (b.py:2)"),
        (1.6, "later (c.py:3)"),
    ]
    assert heavy_calls._describe_stalls(samples, spans, 20.0) == "2x slow (b.py:2)"


def test_a_probed_server_tells_what_its_event_loop_does() -> None:
    with run_probed_server("numpy") as (server, probe), optserve.connect(server.address) as client:
        for _ in range(20):
            client.create_session(
                {f"t{i}": np.zeros(1, np.float32) for i in range(200)}, optserve.optimizers.SGD()
            )
        assert any("optserve" not in text and ".py:" in text for _, text in probe.stacks())


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


@pytest.mark.slow
def test_languages_are_measured_beside_their_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {"python": DRIVERS["python"], "cobol": ("build/clients/cobol/driver",)}
    monkeypatch.setattr(languages, "DRIVERS", commands)
    findings = list(languages.run(Options(rounds=1, seconds=0.02, sizes=(1000,))))
    run = run_of(*findings)
    for way in ("stream", "data connection", "handle"):
        found = run.find("languages", f"python, {way}", 1000, "python, echo")
        memory = run.find("languages", f"python, {way}, peak memory", 1000)
        assert found is not None
        assert found.ratio is not None
        assert memory is not None
        assert memory.value > 20
    (failure,) = run.failures
    assert (failure.name, failure.n) == ("cobol", 1000)
    assert failure.error == "its driver is not built: make driver-cobol"
