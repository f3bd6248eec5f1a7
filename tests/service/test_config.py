"""Settings: one table, four sources, and errors that name the source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from optserve_server.config import ConfigError, Settings, load


def test_defaults_hold_where_nobody_states_anything() -> None:
    assert load([], {}) == Settings()


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_a_flag_a_variable_and_a_key(
    field: dataclasses.Field[object], tmp_path: Path
) -> None:
    stated = {"host": "::1", "backend": "numpy", "log_level": "error", "max_tensor_rank": "7"}
    stated |= {"durability": "snapshot", "journal_bytes": "8388608"}
    text = stated.get(field.name, "70000" if field.name.startswith("max_") else "7")
    if isinstance(field.default, bool):
        text = "no" if field.default else "yes"
    elif field.name == "allow_unauthenticated":
        text = "no"
    config = tmp_path / "server.toml"
    config.write_text(f'{field.name} = "{text}"\n')
    found = [
        load([f"--{field.name.replace('_', '-')}", text], {}),
        load([], {f"OPTSERVE_{field.name.upper()}": text}),
        load(["--config", str(config)], {}),
        load([], {"OPTSERVE_CONFIG": str(config)}),
    ]
    expected = {text, f"{text}.0"} if not isinstance(field.default, bool) else {str(not field.default)}
    assert {str(getattr(settings, field.name)) for settings in found} <= expected
    others = dataclasses.replace(found[0], **{field.name: field.default})
    assert others == Settings()


def test_flags_go_before_environment_before_file(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("port = 1\nthreads = 1\nmax_sessions = 1\n")
    arguments = ["--config", str(config), "--port", "3"]
    settings = load(arguments, {"OPTSERVE_PORT": "2", "OPTSERVE_THREADS": "2"})
    assert (settings.port, settings.threads, settings.max_sessions) == (3, 2, 1)


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("1MiB", 1 << 20), ("64 KiB", 1 << 16), ("1GiB", 1 << 30)]
)
def test_sizes_take_units(text: str, size: int) -> None:
    assert load(["--max-message-bytes", text], {}).max_message_bytes == size


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--port", "70000"], {}, "must be a whole number from 0 to 65535 (from flag --port)"),
        ([], {"OPTSERVE_BACKEND": "gpu"}, "(from environment variable OPTSERVE_BACKEND)"),
        (["--grace-seconds", "nan"], {}, "a number of seconds from 0 to 86400"),
        (["--max-message-bytes", "64MB"], {}, "such as 64MiB"),
        (["--host", " "], {}, "host is ' ', but must be not empty"),
        (["--reflection", "maybe"], {}, "reflection is 'maybe', but must be yes or no"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_origin(
    arguments: list[str], environment: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments, environment)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("prot = 1\n", "unknown setting 'prot' in "),
        ("port = [\n", "cannot read the configuration file "),
        ("port = true\n", "port is 'True', but must be a whole number from 0 to 65535 (from key port of "),
    ],
)
def test_a_wrong_file_is_told(content: str, told: str, tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(["--config", str(config)], {})
    assert str(caught.value).startswith(told)
    assert str(config) in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(["--config", str(tmp_path / "none.toml")], {})


def test_an_unknown_flag_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["--prot", "1"], {})
    assert caught.value.code == 2
    assert "--prot" in capsys.readouterr().err
