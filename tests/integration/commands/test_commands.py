"""Every command against a server with TLS and a token: what it prints, and what it does."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import optserve
from optserve.commands.main import STATUSES, make_parser
from optserve_server.config import CLIENT_VARIABLES
from tests.integration.commands.conftest import run_command
from tests.support.server import environment
from tools.docs.command_line import list_commands

GRADIENTS = {"w": np.array([1.0, 2.0, 3.0]), "b": np.full((2, 2), 0.5, np.float32)}


COMMANDS = list_commands(make_parser())

EXAMPLES = {
    "session ls": "",
    "session show": "SESSION",
    "session create": "new optimizer=adam --parameter w=3:zeros",
    "session rm": "new --yes",
    "session update": "SESSION 'optimizer=sgd(learning_rate=0.5)'",
    "session watch": "SESSION --count 1",
    "session top": "--count 1",
    "watch": "SESSION --tensorboard logs --once",
    "step": "SESSION gradients.npz",
    "pull": "SESSION -o parameters.safetensors",
    "push": "SESSION gradients.npz",
    "snapshot ls": "SESSION",
    "snapshot create": "SESSION",
    "snapshot restore": "SESSION 0 --yes",
    "snapshot rm": "SESSION 0 --yes",
    "snapshot export": "SESSION -o session.safetensors",
    "snapshot import": "session.safetensors new",
    "worker ls": "SESSION",
    "schedule describe": "cosine",
    "schedule evaluate": "constant value=0.1 --steps 2",
    "loss describe": "huber",
    "loss evaluate": "mean_squared_error --prediction '[[1, 2]]' --target '[[1, 4]]'",
    "activation describe": "relu",
    "activation evaluate": "relu --input '[-1, 2]'",
    "optimizer describe": "adam",
    "optimizer evaluate": "sgd learning_rate=1 --parameters '[1, 2]' --gradient '[1, 1]'",
    "plot schedule": "constant value=1 --steps 5 -o out.svg",
    "plot activation": "relu -o out.pdf",
    "plot loss": "huber log_cosh -o out.png",
    "plot optimizer": "sgd --steps 2 -o out.svg",
    "plot session": "SESSION -o out.pdf",
    "server status": "",
    "context ls": "",
    "context add": "there",
    "context use": "there",
    "context rm": "there --yes",
}
"""Arguments of each command that prints JSON; SESSION is the fixture's session."""

BEFORE = {
    "session rm": ["session create new optimizer=sgd --parameter w=3:zeros"],
    "snapshot import": ["snapshot export SESSION -o session.safetensors"],
    "snapshot restore": ["snapshot create SESSION"],
    "snapshot rm": ["snapshot create SESSION"],
    "worker ls": ["step SESSION gradients.npz --worker alice"],
    "context ls": ["context add there"],
    "context use": ["context add there"],
    "context rm": ["context add there"],
}
"""Commands that have to come first."""


def test_every_command_has_an_example():
    assert COMMANDS.keys() == {*EXAMPLES, "completion"}


@pytest.fixture
def do(run, session, tmp_path, monkeypatch):
    """Runs a line of arguments, in which SESSION is the session, in a folder with gradients."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    np.savez("gradients.npz", **GRADIENTS)

    def do(line: str, status: int = 0):
        ended = run(*shlex.split(line.replace("SESSION", session.name)))
        assert ended.status == status, ended
        return ended

    yield do
    run("session", "rm", "new", "--yes")


@pytest.mark.parametrize("command", EXAMPLES)
def test_json_has_the_documented_keys(do, command):
    for line in BEFORE.get(command, []):
        do(line)
    printed = do(f"{command} {EXAMPLES[command]} --json")
    parser, value = COMMANDS[command], printed.json
    if parser.json_form == "array":
        assert isinstance(value, list)
        value = value[0] if value else dict.fromkeys(parser.json_keys)
    if command == "session watch":
        assert value.keys() > set(parser.json_keys)
    else:
        assert tuple(value) == tuple(parser.json_keys)
    assert printed.err == ""


@pytest.mark.parametrize("command", EXAMPLES)
def test_people_get_text(do, command):
    for line in BEFORE.get(command, []):
        do(line)
    printed = do(f"{command} {EXAMPLES[command]}")
    assert printed.err == ""
    if command != "worker ls":
        assert printed.out.strip()
    if command != "session top":  # which prints JSON without a terminal
        assert not printed.out.startswith(("{", "["))


def test_a_session_is_created_stepped_pulled_pushed_and_deleted(do, tmp_path):
    initial = {"w": np.arange(3.0), "b": np.ones((2, 2))}
    safetensors.numpy.save_file(initial, "initial.safetensors")
    words = "'optimizer=sgd(learning_rate=0.5)' 'gradient=gradient(l2=2)' --parameters initial.safetensors"
    created = do(
        f"session create new {words} --parameter 'c=4:constant(value=7)' --dtype float64 --json"
    ).json
    assert [(t["name"], t["dtype"], t["shape"]) for t in created["layout"]] == [
        ("b", "float64", [2, 2]),
        ("w", "float64", [3]),
        ("c", "float64", [4]),
    ]
    assert created["spec"]["gradient"]["l2"] == 2.0
    stepped = do("step new gradients.npz -o after.npz --expected-step 0 --json").json
    assert (stepped["step"], stepped["outcome"], stepped["learning_rate"]) == (1, "APPLIED", 0.5)
    after = np.load("after.npz")
    for name, start in initial.items():  # p - lr*(g + l2*p)
        np.testing.assert_array_equal(after[name], start - 0.5 * (GRADIENTS[name] + 2 * start))
    np.testing.assert_array_equal(after["c"], np.full(4, 7.0))  # it had no gradient
    do("pull new w -o some.safetensors c --dtype bfloat16")
    some = safetensors.numpy.load_file("some.safetensors")
    assert {name: array.dtype.name for name, array in some.items()} == {"w": "bfloat16", "c": "bfloat16"}
    np.savez("pushed.npz", w=np.array([9.0, 8.0, 7.0]))
    assert do("push new pushed.npz --expected-step 1 --reset-state --json").json["tensors"] == ["w"]
    do("pull new -o all.npz")
    np.testing.assert_array_equal(np.load("all.npz")["w"], [9.0, 8.0, 7.0])
    assert do("session rm new --yes --json").json == {"deleted": ["sessions/new"]}
    do("session show new", status=3)


def test_a_step_takes_overrides_and_may_be_a_trial(do):
    trial = do("step SESSION gradients.npz --validate-only --json").json
    assert (trial["step"], trial["gradient_norm"]) == (0, pytest.approx(np.sqrt(14 + 4 * 0.25)))
    rate = "--override learning_rate=0.25"
    assert do(f"step SESSION gradients.npz {rate} --loss-scale 2 --worker a --json").json["worker"] == "a"
    do("pull SESSION w -o w.npz")
    np.testing.assert_array_equal(np.load("w.npz")["w"], np.arange(3) - 0.25 * GRADIENTS["w"] / 2)


def test_a_whole_specification_is_given_as_json_and_changed_by_words(do, monkeypatch):
    spec = {
        "optimizer": {"adam": {"learning_rate": 0.5}},
        "groups": [{"name": "head", "tensors": ["b"], "frozen": True}],
        "weight_average": {"decay": 0.5},
    }
    with open("spec.json", "w") as file:
        json.dump(spec, file)
    words = "--parameter w=2:zeros --parameter b=2:zeros --spec spec.json weight_average=none"
    created = do(f"session create new {words} --json").json
    assert created["spec"]["optimizer"]["adam"]["learning_rate"] == 0.5
    assert created["spec"]["groups"][0]["frozen"] is True
    assert "weight_average" not in created["spec"]
    updated = do("session update new optimizer=momentum --expected-step 0 --json").json
    assert "momentum" in updated["spec"]["optimizer"]
    assert updated["spec"]["groups"] == created["spec"]["groups"]
    assert {transfer["group"] for transfer in updated["transfers"]} == {"", "head"}
    with open("stored.json", "w") as file:
        json.dump(updated["spec"], file)  # what is printed can be given again
    assert do("session update new --spec stored.json --json").json["spec"] == updated["spec"]


def test_the_text_of_a_specification_can_be_given_again(do):
    field = "gradient=gradient(l1=0.5, clip=by_global_norm(max_norm=3))"
    text = do(f"session create new optimizer=adam '{field}' --parameter w=2:zeros").out
    shown = {
        line.split()[1]: line.split(None, 2)[2] for line in text.splitlines() if line.startswith("spec ")
    }
    words = [f"'{name}={value}'" for name, value in shown.items() if name in ("optimizer", "gradient")]
    before = do("session show new --json").json["spec"]
    do(f"session update new {' '.join(words)}")
    assert do("session show new --json").json["spec"] == before


def test_snapshots_are_restored_exported_and_imported(do):
    do("step SESSION gradients.npz")
    assert do("snapshot create SESSION --json").json["step"] == 1
    do("step SESSION gradients.npz")
    assert do("snapshot export SESSION 1 -o one.safetensors --json").json["step"] == 1
    assert do("snapshot import one.safetensors new --json").json == {"session": "sessions/new", "step": 1}
    assert do("snapshot restore SESSION 1 --yes --json").json["step"] == 1
    assert {entry["step"] for entry in do("snapshot ls SESSION --json").json} >= {1}
    do("snapshot rm SESSION 1 --yes")
    assert [e for e in do("snapshot ls SESSION --json").json if e["step"] == 1 and e["kept"]] == []


def test_members_are_listed_by_rank(do, session):
    with session.join("anna"), session.join("bert"):
        workers = do("worker ls SESSION --json").json
    assert [(w["worker"], w["rank"], w["state"]) for w in workers] == [
        ("anna", 0, "ACTIVE"),
        ("bert", 1, "ACTIVE"),
    ]


VALUES = {
    "schedule evaluate step_decay lr=1 step_size=2 gamma=0.5 --start 1 --steps 3 --stride 2": [
        {"step": 1, "learning_rate": 1.0},
        {"step": 3, "learning_rate": 0.5},
        {"step": 5, "learning_rate": 0.25},
    ],
    "loss evaluate mean_squared_error --prediction '[[1, 2], [3, 4]]' --target '[[1, 4], [3, 0]]'": {
        "value": 5.0,
        "per_example": [2.0, 8.0],
        "gradient": [[0.0, -1.0], [0.0, 2.0]],
    },
    "loss evaluate sparse_categorical_crossentropy from_logits=true --prediction '[[0, 0]]' --target '[1]'": {
        "value": pytest.approx(np.log(2)),
        "per_example": [pytest.approx(np.log(2))],
        "gradient": [[0.5, -0.5]],
    },
    "loss evaluate mae reduction=none --prediction '[[1]]' --target '[[3]]' --sample-weight '[2]'": {
        "value": None,
        "per_example": [4.0],
        "gradient": [[-2.0]],
    },
    "activation evaluate leaky_relu negative_slope=0.5 --input '[-2, 3]'": {
        "output": [-1.0, 3.0],
        "gradient": [0.5, 1.0],
    },
    "activation evaluate prelu --input '[-2, 3]' --slope 0.25": {
        "output": [-0.5, 3.0],
        "gradient": [0.25, 1.0],
    },
    "optimizer evaluate sgd learning_rate=0.5 --parameters '[1, 2]' --gradient '[2, -2]' --steps 2": [
        {"step": 1, "learning_rate": 0.5, "parameters": [0.0, 3.0]},
        {"step": 2, "learning_rate": 0.5, "parameters": [-1.0, 4.0]},
    ],
}


@pytest.mark.parametrize("line", VALUES)
def test_functions_are_evaluated(do, line):
    assert do(f"{line} --json").json == VALUES[line]


def test_arrays_come_from_npy_files(do):
    np.save("x.npy", np.array([-1.0, 5.0], np.float32))
    assert do("activation evaluate relu --input x.npy --json").json["output"] == [0.0, 5.0]


def test_descriptions_have_formula_range_and_defaults(do):
    text = do("optimizer describe adagrad").out
    assert "a += g^2" in text
    line = next(line for line in text.splitlines() if line.startswith("initial_accumulator"))
    assert "0.1 (KERAS, OPTAX), 0.0 (TORCH, LECTURE)" in line
    (described,) = do("optimizer describe Momentum --json").json
    assert described["name"] == "momentum"
    assert "b = mu*b + (1 - dampening)*g" in described["formula"]
    by_name = {h["name"]: h for h in described["hyperparameters"]}
    assert by_name["learning_rate"]["defaults"]["TORCH"] == "0.001"
    assert by_name["momentum"]["range"] == "double in [0, 1]"
    assert len(do("loss describe --json").json) == len(do("loss describe").out.splitlines()) - 1 > 15
    do("schedule describe adam", status=2)


def test_sessions_are_listed_in_a_table(do, session):
    heading, *rows = do("session ls").out.splitlines()
    assert heading.split()[:3] == ["NAME", "STEP", "OPTIMIZER"]
    name = session.name.removeprefix("sessions/")
    assert [row.split()[1:4] for row in rows if row.startswith(name)] == [["0", "sgd", "7"]]


def test_people_see_tensors_and_the_specification(do):
    do("session create new optimizer=adam --parameter w=64,10:glorot --parameter b=10:zeros")
    lines = [line.split(None, 2) for line in do("session show new").out.splitlines()]
    assert [line for line in lines if line[0] == "tensor"] == [
        ["tensor", "w", "float32 [64, 10]"],
        ["tensor", "b", "float32 [10]"],
    ]
    assert ["slots", "default=[m,", "v]"] in lines


def test_the_status_of_a_server(do, secure):
    status = do("server status --json").json
    assert (status["server"], status["serving"], status["backend"]) == (secure.address, True, "numpy")
    assert "snapshots" in status["features"]


WRONG = [
    ("session show nowhere", 3, "SESSION_NOT_FOUND"),
    ("session show SESSION --token wrong", 4, "UNAUTHENTICATED"),
    ("session ls --server 127.0.0.1:1 --timeout 0.3", 5, "no server listens at 127.0.0.1:1"),
    ("step SESSION gradients.npz --expected-step 5", 6, "STEP_MISMATCH"),
    ("session create SESSION optimizer=adam --parameter w=3:zeros", 6, "SESSION_EXISTS"),
    ("session create new optimizer=adamm --parameter w=3:zeros", 2, "did you mean 'adam'"),
    ("session create new optimizer=adam", 2, "--parameter NAME=SHAPE:INITIALIZER"),
    ("session create new --parameter w=3:zeros", 2, "optimizer=NAME"),
    ("session create new optimizer=adam --parameter w=a:zeros", 2, "'w=a:zeros' is not NAME=SHAPE"),
    ("session create new optimizer=adam --parameter w=3:zeros --parameter w=3:zeros", 2, "given twice"),
    ("session create new optimizer=adam --parameter w=3:cosine", 2, "initializer is 'cosine'"),
    ("session create new adam --parameter w=3:zeros", 2, "'adam' is not FIELD=VALUE"),
    ("session create new optimizer=adam gradient=adam(l2=1) --parameter w=3:zeros", 2, "write Gradient("),
    ("session update SESSION --spec gradients.npz", 2, "gradients.npz"),
    ("session rm SESSION", 2, "add --yes to delete"),
    ("snapshot restore SESSION 0", 2, "add --yes to restore"),
    ("snapshot restore SESSION 99 --yes", 3, "SNAPSHOT_NOT_FOUND"),
    ("step SESSION gradients.txt", 2, "must end in .npz or .safetensors"),
    ("step SESSION damaged.npz", 2, "damaged.npz is not an npz file of numbers"),
    ("step SESSION damaged.safetensors", 2, "damaged.safetensors is not a safetensors file"),
    ("step SESSION nowhere.npz", 1, "nowhere.npz"),
    ("step SESSION gradients.npz --override learning_rate=high", 2, "a number, not high"),
    ("pull SESSION v -o v.npz", 2, "UNKNOWN_TENSOR"),
    ("pull SESSION -o v.npz --dtype bfloat16", 2, "no bfloat16"),
    ("activation evaluate relu --input '[1, x]'", 2, "neither an .npy file"),
    ("activation evaluate relu tanh --input '[1]'", 2, "one activation at a time"),
    ("plot loss iou", 2, "optserve: "),
    ("plot loss categorical_crossentropy", 2, "along an axis"),
    ("plot loss all", 2, "name those to draw"),
    ("plot loss huber -o out.gif", 2, "must end in .png or .svg or .pdf"),
    ("plot loss huber --serve --server localhost:1", 2, "exclude each other"),
    ("session ls --certificate ca.pem", 2, "go together"),
    ("session ls --context nowhere", 2, "there is no context 'nowhere'"),
    ("session sl", 2, "invalid choice"),
    ("session ls extra", 2, "unrecognized arguments: extra"),
    ("pull SESSION", 2, "-o/--output"),
    ("session top --interval 0", 2, "greater than 0"),
]


@pytest.mark.parametrize(("line", "status", "message"), WRONG, ids=[line for line, _, _ in WRONG])
def test_an_error_is_one_line_with_its_status(do, line, status, message):
    for name in ("damaged.npz", "damaged.safetensors"):
        with open(name, "wb") as file:
            file.write(b"no arrays")
    ended = do(line, status=status)
    assert ended.out == ""
    assert ended.err.startswith("optserve: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert status in STATUSES


def test_a_pipe_that_is_closed_is_no_traceback(secure):
    code = (
        "import sys; from optserve.commands import output, server;"
        "from optserve.commands.main import main;"
        "server.print_record = lambda *_: [print('x' * 10_000) for _ in range(1_000)];"
        "sys.exit(main(['server', 'status']))"
    )
    pipeline = f'"{sys.executable}" -c "{code}" | head -n 1'
    done = subprocess.run(
        ["sh", "-c", pipeline], env=environment(**secure.variables()), capture_output=True, timeout=60
    )
    assert done.stdout == b"x" * 10_000 + b"\n"
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("module", "line", "extra"),
    [
        ("rich.table", "session ls", "optserve[cli]"),
        ("shtab", "completion bash", "optserve[cli]"),
        ("safetensors.numpy", "pull SESSION -o w.safetensors", "optserve[cli]"),
    ],
)
def test_a_missing_extra_is_named(do, monkeypatch, module, line, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install '{extra}'" in do(line, status=1).err


def test_without_rich_programs_get_their_json(do, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(do("session ls --json").json, list)
    do("step SESSION gradients.npz")  # a command that changes something does not need it


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell):
    script = run_command("completion", shell).out
    assert all(word in script for command in COMMANDS for word in command.split())


def test_bash_completes_commands_and_options(tmp_path):
    (tmp_path / "script").write_text(run_command("completion", "bash").out)
    ask = (
        f". {tmp_path}/script; COMP_WORDS=(optserve snapshot re); COMP_CWORD=2;"
        " words=($(complete -p optserve)); function=${words[-2]};"
        " $function optserve re snapshot; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["restore"], done.stderr


def test_importing_the_client_loads_no_command():
    code = (
        "import sys, optserve; optserve.connect('localhost:1').close();"
        "print([name for name in sys.modules if name.startswith(('optserve.commands', 'optserve.plotting',"
        " 'rich', 'shtab', 'matplotlib', 'safetensors'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_server_ignores_the_variables_of_clients():
    connection = importlib.import_module("optserve.commands.connection")
    assert {*connection.VARIABLES.values(), connection.CONTEXT_VARIABLE} == set(CLIENT_VARIABLES)
    assert optserve.__version__ in run_command("--version").out
