"""Settings: one table, four sources, and errors that name the source."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from optserve_server.app import make_namespaces
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.config import ConfigError, Settings, add_flags, load_settings

Load = Callable[[Sequence[str], Mapping[str, str]], Settings]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads settings from arguments and from environment variables that replace all of ours."""

    def loads(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
        for name in [name for name in os.environ if name.startswith("OPTSERVE_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        parser = argparse.ArgumentParser(allow_abbrev=False)
        add_flags(parser)
        return load_settings(vars(parser.parse_args(arguments)))

    return loads


def test_defaults_hold_where_nothing_is_stated(loaded: Load) -> None:
    assert loaded([], {}) == Settings.model_construct()


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"config"}))
def test_every_setting_is_a_flag_a_variable_and_a_key(name: str, loaded: Load, tmp_path: Path) -> None:
    default = Settings.model_fields[name].default
    stated = {"host": "::1", "backend": "numpy", "log_level": "error", "max_tensor_rank": "7"}
    stated |= {
        "durability": "snapshot",
        "journal_bytes": "8388608",
        "allow_unauthenticated": "no",
        "dashboard": "no",
        "log_format": "text",
    }
    text = stated.get(name, "70000" if name.startswith("max_") else "7")
    if isinstance(default, bool):
        text = "no" if default else "yes"
    config = tmp_path / "server.toml"
    config.write_text(f'{name} = "{text}"\n')
    found = [
        loaded([f"--{name.replace('_', '-')}", text], {}),
        loaded([], {f"OPTSERVE_{name.upper()}": text}),
        loaded(["--config", str(config)], {}),
        loaded([], {"OPTSERVE_CONFIG": str(config)}),
    ]
    expected = {text, f"{text}.0"} if not isinstance(default, bool) else {str(not default)}
    assert {str(getattr(settings, name)) for settings in found} <= expected
    others = found[0].model_copy(update={name: default})
    assert others == Settings.model_construct()


def test_flags_go_before_environment_before_file(loaded: Load, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("port = 1\nthreads = 1\nmax_sessions = 1\n")
    arguments = ["--config", str(config), "--port", "3"]
    settings = loaded(arguments, {"OPTSERVE_PORT": "2", "OPTSERVE_THREADS": "2"})
    assert (settings.port, settings.threads, settings.max_sessions) == (3, 2, 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("1MiB", 1 << 20), ("64 KiB", 1 << 16), ("1GiB", 1 << 30), ("1MB", 10**6)],
)
def test_sizes_take_units(text: str, size: int, loaded: Load) -> None:
    assert loaded(["--max-message-bytes", text], {}).max_message_bytes == size


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--port", "70000"], {}, "must be a whole number from 0 to 65535 (from flag --port)"),
        ([], {"OPTSERVE_BACKEND": "gpu"}, "(from environment variable OPTSERVE_BACKEND)"),
        (["--grace-seconds", "nan"], {}, "a number of seconds from 0 to 86400"),
        (["--max-message-bytes", "3"], {}, "must be a whole number from 65536 to 2147483647, such as 64MiB"),
        (["--data-port", "on"], {}, "must be a whole number from 0 to 65535 or one of auto, off"),
        (["--host", " "], {}, "host is ' ', but must be a non-empty text"),
        (["--reflection", "maybe"], {}, "reflection is 'maybe', but must be yes or no"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_origin(
    arguments: list[str], environment: dict[str, str], told: str, loaded: Load
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(arguments, environment)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("prot = 1\n", "unknown setting 'prot' in {}; the nearest known name is 'port'"),
        ("port = [\n", "cannot read the configuration file {}"),
        ("port = true\n", "port is 'true', but must be a whole number from 0 to 65535 (from key port of {})"),
        ("config = 'x'\n", "unknown setting 'config' in {}"),
    ],
)
def test_a_wrong_file_is_told(content: str, told: str, loaded: Load, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(content)
    with pytest.raises(ConfigError) as caught:
        loaded(["--config", str(config)], {})
    assert str(caught.value).startswith(told.format(config))


def test_a_missing_file_is_told(loaded: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        loaded(["--config", str(tmp_path / "none.toml")], {})


def test_an_unknown_flag_ends_the_command(loaded: Load, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        loaded(["--prot", "1"], {})
    assert caught.value.code == 2
    assert "--prot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("OPTSERVE_PROT", "OPTSERVE_PORT"), ("OPTSERVE_MAX_SESSION_BYTE", "OPTSERVE_MAX_SESSION_BYTES")],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(name: str, nearest: str, loaded: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded([], {name: "1"})
    assert (
        str(caught.value) == f"unknown environment variable {name!r}; the nearest known name is {nearest!r}"
    )


def test_variables_of_clients_are_ignored(loaded: Load) -> None:
    variables = {"OPTSERVE_SERVER": "127.0.0.1:1", "OPTSERVE_TOKEN": "secret", "OPTSERVE_CA": "ca.pem"}
    assert loaded([], variables) == Settings.model_construct()


@pytest.mark.parametrize("durability", ["journal", "snapshot"])
def test_durability_needs_a_data_directory(durability: str, loaded: Load) -> None:
    settings = loaded(["--durability", durability], {})
    with pytest.raises(ConfigError) as caught:
        make_namespaces(settings, NumpyBackend())
    assert str(caught.value) == (
        f"durability is {durability!r}, which needs data_dir; set data_dir, or durability to 'ephemeral'"
    )
