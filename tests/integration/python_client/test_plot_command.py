"""``optserve plot`` against a real server."""

from __future__ import annotations

import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import optserve
from optserve.commands import local_server as servers
from optserve.commands.main import main
from optserve.losses import Loss
from optserve.plotting.losses import loss_curves
from optserve.plotting.plot_items import parse_items
from tests.support.server import environment

DOCUMENT = Path(__file__).parents[3] / "docs" / "plots.md"


def png_size(path: Path) -> tuple[int, int]:
    """Width and height, from the header that a PNG begins with."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert head[12:16] == b"IHDR"
    return struct.unpack(">II", head[16:24])


DRAWN = [
    ("schedule constant value=0.1 --steps 20", (900, 500)),
    ("schedule --log exponential initial_learning_rate=1 decay_steps=9 decay_rate=.5 --steps 20", (900, 500)),
    ("schedule constant --steps 20 value=0.1", (900, 500)),
    ("activation sigmoid", (700, 500)),
    ("activation leaky_relu negative_slope=0.1 prelu softmax --slope 0.5 --range -2 2", (900, 250)),
    ("activation sigmoid tanh relu elu gelu", (1200, 500)),
    ("loss huber delta=2 mse --target 1", (1200, 500)),
    ("optimizer sgd momentum --steps 5", (1200, 560)),
    ("optimizer sgd adam learning_rate=0.1 --surface saddle --start -1 0.5 --steps 5", (1200, 560)),
    ("optimizer sgd --start 3 0.5 --steps 3", (1200, 560)),  # at the minimum
    ("optimizer sgd momentum --sheet --steps 5 --surface rosenbrock", (600, 250)),
]


@pytest.mark.parametrize(("words", "size"), DRAWN)
def test_a_picture_is_drawn(server, tmp_path, capsys, words, size):
    path = tmp_path / "new" / "folder" / "out.png"
    assert main(["plot", *shlex.split(words), "--server", server.address, "-o", str(path)]) == 0
    assert png_size(path) == size
    assert capsys.readouterr().out.split() == ["file", str(path)]


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".svg", b"<?xml"), (".pdf", b"%PDF-1."), (".png", b"\x89PNG")]
)
def test_the_suffix_selects_the_format(server, tmp_path, suffix, begins):
    """Twice the same bytes: pictures under version control change only with what they show."""
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        assert main(["plot", "activation", "relu", "--server", server.address, "-o", str(path)]) == 0
    one, two = (path.read_bytes() for path in paths)
    assert one.startswith(begins)
    assert suffix == ".svg" or one == two


def test_a_loss_is_drawn_with_its_derivative(server):
    with optserve.connect(server.address) as client:
        items = parse_items(Loss, ["huber", "delta=2", "mse", "reduction=none"])
        predictions = np.array([-4.0, 0.0, 1.0, 2.0, 9.0])
        huber, squared = loss_curves(client, items, predictions, target=1.0)
    error = predictions - 1
    large = np.abs(error) > 2
    np.testing.assert_allclose(huber.values, np.where(large, 2 * np.abs(error) - 2, error**2 / 2))
    np.testing.assert_allclose(huber.derivatives, np.where(large, 2 * np.sign(error), error))
    np.testing.assert_allclose(squared.values, error**2)
    np.testing.assert_allclose(squared.derivatives, 2 * error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["activation", "optimizer"])
def test_all_is_a_sheet(server, tmp_path, kind):
    path = tmp_path / "all.png"
    steps = ["--steps", "3"] if kind == "optimizer" else []
    assert main(["plot", kind, "all", *steps, "--server", server.address, "-o", str(path)]) == 0
    width, height = png_size(path)
    assert width == 1200
    assert height >= 1000


WRONG = [
    ("schedule cosin", "did you mean 'cosine'?"),
    ("schedule cosine initial_learning_rate=1", "cosine needs decay_steps"),
    ("schedule all", "required fields"),
    ("schedule cosine initial_learning_rate=1 decay_steps=-1", "schedule.cosine.decay_steps"),
    ("activation elu alpha=red", "ELU.alpha is 'red', but must be a number"),
    ("activation sigmoid --range 2 1", "--range"),
    ("schedule constant value=0 --log", "--log needs a learning rate above 0"),
    ("optimizer adam --start 1e9 0", "--start lies far outside"),
    ("optimizer adam beta1=1.5", "spec.optimizer.adam.beta1"),
    ("optimizer adam beta3=0.5", "did you mean beta"),
    ("activation relu --serve", "exclude each other"),
    ("loss all", "name those to draw"),
    ("loss cosine_similarity", "along an axis"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_a_wrong_wish_exits_2_with_a_reason(server, tmp_path, capsys, words, message):
    path = tmp_path / "out.png"
    assert main(["plot", *words.split(), "--server", server.address, "-o", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("optserve: ")
    assert message in shown.err
    assert shown.out == ""
    assert not path.exists()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "schedule",
        "sculpture relu",
        "activation relu --sharp",
        "schedule constant value=1 --steps 0",
        "activation relu --slope nan",
        "activation relu --timeout 0",
        "optimizer sgd --surface moon",
        "activation relu -o out.gif",
    ],
)
def test_a_wrong_command_line_exits_2(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(["plot", *words.split()])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("optserve: ")
    assert message.count("\n") == 1


def test_a_server_that_is_not_there_exits_5(capsys, tmp_path):
    path = tmp_path / "out.png"
    where = ["--server", "127.0.0.1:1", "--timeout", "0.5", "-o", str(path)]
    assert main(["plot", "activation", "relu", *where]) == 5
    assert capsys.readouterr().err.startswith("optserve: ")


def test_a_picture_that_cannot_be_written_exits_1(server, capsys, tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main(["plot", "activation", "relu", "--server", server.address, "-o", str(folder)]) == 1
    assert str(folder) in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(server, capsys, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "optserve.plotting.pictures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "out.png"
    assert main(["plot", "activation", "relu", "--server", server.address, "-o", str(path)]) == 1
    assert "pip install 'optserve[plot]'" in capsys.readouterr().err


def test_a_server_of_its_own_is_started_and_stopped(tmp_path):
    """Through the console's way in, with the server's command on the path as its distribution puts it."""
    command, started = tmp_path / "optserve-server", tmp_path / "pid"
    command.write_text(
        f'#!/bin/sh\necho $$ > {started}\nexec {sys.executable} -m optserve_server --backend numpy "$@"\n'
    )
    command.chmod(0o755)
    path = tmp_path / "out.png"
    code = (
        "import sys; from optserve.commands import server; from optserve.commands.main import main;"
        "sys.executable = '/nowhere/python'; sys.exit(main(sys.argv[1:]))"
    )
    words = ["plot", "activation", "tanh", "--serve", "-o", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(PATH=f"{tmp_path}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert png_size(path) == (700, 500)
    assert not Path("/proc", started.read_text().strip()).exists()


def test_without_the_servers_command_it_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(servers, "COMMAND", "optserve-server-that-nobody-installed")
    assert main(["plot", "activation", "relu", "--serve", "-o", str(tmp_path / "out.png")]) == 1
    assert "is not installed here" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_reported(capsys, monkeypatch, tmp_path):
    command = tmp_path / "optserve-broken-server"
    command.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    command.chmod(0o755)
    monkeypatch.setattr(servers, "COMMAND", command.name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert main(["plot", "activation", "relu", "--serve", "-o", str(tmp_path / "out.png")]) == 1
    assert "no such luck" in capsys.readouterr().err


def list_documented() -> list[list[str]]:
    """The commands of docs/plots.md, their continued lines joined."""
    text = DOCUMENT.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("optserve plot ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("words", list_documented(), ids=lambda words: words[-1])
def test_the_documented_commands_draw_the_documented_pictures(server, tmp_path, words):
    *command, flag, picture = words
    assert flag == "-o"
    path = tmp_path / "out.png"
    assert main([*command, "--server", server.address, "-o", str(path)]) == 0
    committed = DOCUMENT.parents[1] / picture
    assert png_size(path) == png_size(committed)
    assert committed.stat().st_size < 100_000


def test_every_documented_picture_has_its_command():
    shown = {line.split("](")[1].rstrip(")") for line in DOCUMENT.read_text().splitlines() if "![" in line}
    assert {f"docs/{name}" for name in shown} == {words[-1] for words in list_documented()}
    assert len(shown) >= 5
