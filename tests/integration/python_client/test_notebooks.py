"""What notebooks show: tables, figures and bars."""

from __future__ import annotations

import builtins
import dataclasses
import html.parser
import subprocess
import sys
import types

import numpy as np
import pytest

import optserve
from optserve import layers, progress
from optserve.html_tables import render_fields, render_rows

EVIL = "<script>alert(1)</script>"


class Tags(html.parser.HTMLParser):
    """The tags of a text, whose ends are in order, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.add(tag)
        assert dict(attributes).keys() <= {"style", "colspan"}
        assert "color" not in (dict(attributes).get("style") or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(shown) -> list[str]:
    """The words of what a notebook shows for a value; its tags are those of tables alone."""
    tags = Tags()
    tags.feed(shown if isinstance(shown, str) else shown._repr_html_())
    assert tags.open == []
    assert tags.seen <= {"table", "caption", "tbody", "tr", "th", "td"}
    return tags.words


def test_a_session_shows_its_step_and_its_tensors(session):
    session.step({"w": np.ones(3)})
    words = read(session)
    name = session.name.removeprefix("sessions/")
    assert words[:5] == ["Session", "name", name, "spec", words[4]]
    assert words[words.index("step") + 1] == "1"
    assert "2 tensors, 40 B" in words
    assert words[words.index("w") : words.index("w") + 4] == ["w", "3", "float64", "24 B"]
    assert read(session.get()) == words


def test_results_and_specifications_are_tables(client, session):
    result = session.step({"w": np.ones(3)}, pull=True)
    words = read(result)
    assert words[:5] == ["Step", "step", "1", "outcome", "APPLIED"]
    start = words.index("parameters")
    assert words[start : start + 4] == ["parameters", "name", "dtype", "shape"]
    assert words[start + 4 : start + 10] == ["w", "float64", "3", "b", "float32", "2, 2"]
    assert read(session.report({"loss": 0.5}))[0] == "MetricsReport"
    words = read(session.spec)
    assert words[0] == "SessionSpec"
    assert any(word.startswith("sgd(") for word in words)
    adam = ["Adam", "convention", "KERAS", "learning rate", "0.1"]
    assert read(optserve.optimizers.Adam(learning_rate=0.1))[:5] == adam
    assert read(client.capabilities())[0] == "Capabilities"


def test_complexity_has_a_row_for_each_layer(client):
    network = layers.Network([layers.Dense(units=3, name=EVIL)], input_shape=(4,))
    words = read(client.estimate_complexity(network, optimizer="adam"))
    assert words[0] == "Complexity"
    assert EVIL in words
    assert "total" in words
    assert "optimizer state bytes" in words


def test_names_of_others_are_escaped(client):
    """Also from a server that lets such names pass."""
    shown = render_fields(EVIL, {EVIL: EVIL, "map": {EVIL: EVIL}, "list": (EVIL,)})
    rows = render_rows(EVIL, (EVIL,), [(EVIL,)] * 30, 30)
    for text in (shown, rows):
        assert "<script" not in text
        assert EVIL in read(text)
    assert read(rows)[-1] == "and 10 more"
    assert read(render_fields("", {"long": "<" * 1000}))[-1] == "<" * 400 + "…"
    session = client.create_session({EVIL: np.zeros(2)}, "sgd")
    try:
        result = session.step({EVIL: np.ones(2)}, pull=True, per_tensor_norms=True)
        for value in (session, session.get(), result):
            assert "<script" not in value._repr_html_()
            assert any(EVIL in word for word in read(value))
        hostile = dataclasses.replace(session.get(), name=f"sessions/{EVIL}")
        assert read(hostile)[2] == EVIL
    finally:
        session.delete()


def test_a_plot_has_the_history(client, tmp_path):
    spec = optserve.Gradient(clip=optserve.ClipByGlobalNorm(max_norm=0.5))
    session = client.create_session(
        {"w": np.zeros(3)}, optserve.optimizers.SGD(learning_rate=0.1), gradient=spec
    )
    empty = session.plot()
    assert [axes.get_ylabel() for axes in empty.axes] == ["learning rate", "gradient norm"]
    for step in range(5):
        session.step({"w": np.full(3, 10.0**-step)})
        session.report({"loss": 1 / (1 + step), "$cost": float("nan")})
    figure = session.plot()
    rate, norms, *metrics = figure.axes
    loss, _ = sorted(metrics, key=lambda axes: axes.get_ylabel() != "loss")
    assert {axes.get_ylabel() for axes in metrics} == {"loss", r"\$cost"}
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 5
    assert [line.get_label() for line in norms.lines] == ["before clipping", "after clipping"]
    assert norms.get_yscale() == "log"
    assert norms.lines[1].get_ydata()[0] == pytest.approx(0.5)
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    figure.savefig(tmp_path / "history.pdf")
    assert figure._repr_png_().startswith(b"\x89PNG")
    session.delete()


def test_matplotlib_is_loaded_by_a_plot_alone(server):
    code = (
        "import sys, optserve\n"
        f"with optserve.connect({server.address!r}) as client:\n"
        "    session = client.create_session({'w': [0.0]}, 'sgd')\n"
        "    session._repr_html_()\n"
        "    assert 'matplotlib' not in sys.modules\n"
        "    sys.modules['matplotlib'] = None\n"
        "    try:\n"
        "        session.plot()\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "    session.delete()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "this needs matplotlib: pip install 'optserve[plot]'\n"


def test_a_notebook_shows_bars(monkeypatch):
    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    large = progress.LARGE
    assert isinstance(progress.make_progress_bar("x", large, None), progress.Silent)
    monkeypatch.setattr(builtins, "get_ipython", types.SimpleNamespace, raising=False)  # not in a kernel
    assert isinstance(progress.make_progress_bar("x", large, None), progress.Silent)
    monkeypatch.setattr(builtins, "get_ipython", lambda: kernel, raising=False)
    with progress.make_progress_bar("x", large, None) as shown:
        assert not isinstance(shown, progress.Silent)


def test_bars_may_be_the_callers_own(server):
    made = []

    class Counted(progress.Silent):
        """Counts bytes."""

        def __init__(self, what, byte_count):
            self.what, self.byte_count, self.seen = what, byte_count, 0
            made.append(self)

        def update(self, n=1, /):
            self.seen += n

    with optserve.connect(server.address, progress=Counted) as client:
        session = client.create_session({"w": np.zeros(700_003)}, "sgd")
        session.pull()
        session.delete()
    assert [(bar.what, bar.seen == bar.byte_count) for bar in made] == [("upload", True), ("pull", True)]
