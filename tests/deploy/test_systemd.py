"""The systemd unit runs the program that there is, with settings that it takes. Needs no systemd."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

import pytest

from optserve_server.__main__ import make_argument_parser
from optserve_server.config import Settings, load_settings

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNIT = (FOLDER / "optserve-server.service").read_text()
EXAMPLE = (FOLDER / "server.toml").read_text()


def values_of(key: str, text: str = UNIT) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def parse(command: str) -> argparse.Namespace:
    program, *arguments = command.split()
    assert program == "/opt/optserve/bin/optserve-server"
    return make_argument_parser()[0].parse_args(arguments)


def test_commands_and_their_flags() -> None:
    (before,), (command,) = values_of("ExecStartPre"), values_of("ExecStart")
    assert parse(before).skip == ["data"]
    assert parse(before).config == parse(command).config == "/etc/optserve/server.toml"


@pytest.mark.parametrize("wrong", ["--skip=date", "--confg=x", "chek"])
def test_a_planted_mistake_is_found(wrong: str) -> None:
    with pytest.raises(SystemExit):
        parse(f"/opt/optserve/bin/optserve-server {'' if wrong == 'chek' else 'check'} {wrong}")


def uncomment(text: str) -> str:
    """The file with its commented settings in force."""
    return re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("text", [EXAMPLE, uncomment(EXAMPLE)], ids=["as it is", "uncommented"])
def test_the_example_file_is_taken(text: str, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    settings = load_settings({"config": str(path)})
    for name in tomllib.loads(text):
        assert name in Settings.model_fields
    assert settings.data_dir == "/var/lib/" + values_of("StateDirectory")[0]
    assert settings.grace_seconds < float(values_of("TimeoutStopSec")[0])
    assert settings.port == Settings.model_construct().port


def test_the_user_and_its_home() -> None:
    (user, home) = re.findall(
        r'^u (\w+) - ".*" (\S+)$', (FOLDER / "sysusers.conf").read_text(), re.MULTILINE
    )[0]
    assert [user] == values_of("User") == values_of("Group")
    assert home == "/var/lib/" + values_of("StateDirectory")[0]


def test_limits_and_sandbox() -> None:
    assert int(values_of("LimitNOFILE")[0]) >= 1 << 20
    assert values_of("CapabilityBoundingSet") == [""]
    assert values_of("ProtectSystem") == ["strict"]
    assert values_of("NoNewPrivileges") == ["yes"]
    assert values_of("MemoryDenyWriteExecute") == []  # kernels are compiled into memory
    assert "AF_UNIX" in values_of("RestrictAddressFamilies")[0]
    assert values_of("RestartPreventExitStatus") == ["2"]
    assert values_of("PrivateDevices", (FOLDER / "gpu.conf").read_text()) == ["no"]
