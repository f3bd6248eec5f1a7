"""Settings: flags over environment over file over defaults, all from one table.

The table is the `Settings` dataclass. A setting ``max_sessions`` is the flag
``--max-sessions``, the environment variable ``OPTSERVE_MAX_SESSIONS`` and the key
``max_sessions`` of the TOML file that ``--config`` names.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optserve_server import __version__

PREFIX = "OPTSERVE_"
"""What environment variables begin with."""

METRICS_PORT = 9464
"""Where Prometheus looks for metrics of this kind."""

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class ConfigError(Exception):
    """A setting is wrong; the message names it and where it came from."""


def setting(default: object, parse: Callable[[str], object], explanation: str) -> Any:
    """Declares a setting.

    Args:
        default: its value where nobody states one.
        parse: reads its value from text; raises ValueError saying what is allowed.
        explanation: a line of help.
    """
    return dataclasses.field(default=default, metadata={"parse": parse, "help": explanation})


def whole(low: int, high: int) -> Callable[[str], int]:
    """Whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def size(low: int, high: int) -> Callable[[str], int]:
    """Bytes, as a whole number with KiB, MiB or GiB behind it or nothing."""

    def parse(text: str) -> int:
        number, unit = text.strip(), 1
        if number[-3:] in _UNITS:
            number, unit = number[:-3].strip(), _UNITS[number[-3:]]
        if not number.isascii() or not number.isdigit() or not low <= int(number) * unit <= high:
            raise ValueError(f"a size from {low} to {high} bytes, such as 64MiB")
        return int(number) * unit

    return parse


def seconds(text: str) -> float:
    """A duration of up to a day."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86400:
        raise ValueError("a number of seconds from 0 to 86400")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text

    return parse


def port_or_word(text: str) -> str:
    """A port, auto or off."""
    if text in ("auto", "off"):
        return text
    try:
        return str(whole(0, 65535)(text))
    except ValueError as error:
        raise ValueError(f"auto, off, or {error}") from None


def yes_no(text: str) -> bool:
    """Yes or no; a TOML file's true and false as well."""
    if text.lower() not in ("yes", "no", "true", "false"):
        raise ValueError("yes or no")
    return text.lower() in ("yes", "true")


def text_line(text: str) -> str:
    """Any text that is not empty."""
    if not text.strip():
        raise ValueError("not empty")
    return text


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server runs with."""

    host: str = setting("127.0.0.1", text_line, "address to listen on")
    port: int = setting(50051, whole(0, 65535), "port to listen on; 0 picks a free one")
    tcp: bool = setting(True, yes_no, "whether to listen at host and port")
    data_port: str = setting(
        "auto",
        port_or_word,
        "port, at the same host, of connections that streams may have beside gRPC; auto is a free one,"
        " off none, and there are none with TLS",
    )
    unix_socket: str = setting("", text_line, "path of a Unix socket to listen at, for this user alone")
    tls_certificate: str = setting("", text_line, "PEM file with the server's certificate chain")
    tls_key: str = setting("", text_line, "PEM file with the certificate's private key")
    tls_client_ca: str = setting(
        "", text_line, "PEM file with authorities; clients must then show a certificate of theirs"
    )
    allow_plaintext_beyond_loopback: bool = setting(
        False, yes_no, "lets everybody on the way read and change what is sent, tokens included"
    )
    tokens_file: str = setting("", text_line, "TOML file of bearer tokens and quotas")
    allow_unauthenticated: str = setting(
        "auto",
        one_of("auto", "yes", "no"),
        "whether calls without a token are taken; auto where there is no file of tokens",
    )
    reflection: bool = setting(True, yes_no, "whether the server describes its contract to callers")
    shared_memory: bool = setting(
        True, yes_no, "whether clients of the server's user on its host may share memory with it"
    )
    port_file: str = setting("", text_line, "file to write the port to once the server is ready")
    backend: str = setting(
        "auto", one_of("auto", "numpy", "numba", "cupy"), "what computes; auto takes the fastest there is"
    )
    metrics_host: str = setting("127.0.0.1", text_line, "address of /metrics, /healthz and /readyz")
    metrics_port: str = setting(
        "auto", port_or_word, "their port; auto is 9464 unless another has it, 0 a free one, off none"
    )
    traces: bool = setting(False, yes_no, "sends traces of calls where OTEL_EXPORTER_OTLP_ENDPOINT says")
    log_level: str = setting("info", one_of("debug", "info", "warning", "error"), "least level to log")
    grace_seconds: float = setting(10.0, seconds, "how long calls in flight may take after SIGTERM")
    max_concurrent_rpcs: int = setting(1000, whole(1, 1_000_000), "calls in flight at once")
    max_message_bytes: int = setting(64 << 20, size(1 << 16, 2**31 - 1), "largest message received or sent")
    max_sessions: int = setting(1000, whole(0, 10**9), "sessions held; 0 for no limit")
    max_session_bytes: int = setting(8 << 30, size(0, 2**62), "bytes of one session; 0 for no limit")
    max_tensors: int = setting(100_000, whole(0, 10**9), "tensors of a session; 0 for no limit")
    max_tensor_rank: int = setting(32, whole(1, 64), "dimensions of a tensor")
    max_memory_bytes: int = setting(
        0, size(0, 2**62), "bytes of all sessions and transfers; 0 for three quarters of the memory"
    )
    max_bytes_in_flight: int = setting(0, size(0, 2**62), "bytes of transfers under way; 0 for no limit")
    stream_idle_seconds: float = setting(600.0, seconds, "how long a stream may be silent; 0 for ever")
    session_lease_seconds: float = setting(
        0.0, seconds, "after which an unused session may leave memory, where it states none; 0 for never"
    )
    data_dir: str = setting("", text_line, "directory that sessions are kept in; none keeps them in memory")
    durability: str = setting(
        "journal",
        one_of("journal", "snapshot", "ephemeral"),
        "of sessions that state none, where there is a data directory",
    )
    snapshot_generations: int = setting(
        2, whole(1, 1000), "snapshots of each session that are kept, beside those that clients asked for"
    )
    journal_bytes: int = setting(
        2 << 30, size(1 << 20, 2**62), "journal beyond which sessions are saved so that it can shrink"
    )
    threads: int = setting(2, whole(1, 1024), "threads for work too long for the event loop")


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings that flags, environment and file make.

    Args:
        arguments: the command line without the command.
        environment: the environment variables.

    Raises:
        ConfigError: a value is wrong, the file cannot be read, or it has an unknown key.
        SystemExit: ``--help``, ``--version``, or an unknown flag.
    """
    flags = vars(_parser().parse_args(arguments))
    path = flags.get("config") or environment.get(f"{PREFIX}CONFIG")
    layers = [
        (_from_file(path) if path else {}, "key {} of " + str(path)),
        (_from_environment(environment), "environment variable {}"),
        (_from_flags(flags), "flag {}"),
    ]
    values: dict[str, Any] = {}
    for found, origin in layers:
        for field in dataclasses.fields(Settings):
            if field.name in found:
                spelled, text = found[field.name]
                values[field.name] = _parsed(field, text, origin.format(spelled))
    return Settings(**values)


def _parsed(field: dataclasses.Field[Any], text: str, origin: str) -> object:
    try:
        return field.metadata["parse"](text)
    except ValueError as error:
        raise ConfigError(f"{field.name} is {text!r}, but must be {error} (from {origin})") from None


def _from_flags(flags: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (_flag(name), text) for name, text in flags.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = {f"{PREFIX}{field.name.upper()}": field.name for field in dataclasses.fields(Settings)}
    return {names[spelled]: (spelled, environment[spelled]) for spelled in names.keys() & environment.keys()}


def _from_file(path: str) -> dict[str, tuple[str, str]]:
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from None
    unknown = content.keys() - {field.name for field in dataclasses.fields(Settings)}
    if unknown:
        raise ConfigError(f"unknown setting {min(unknown)!r} in {path}")
    return {name: (name, str(value)) for name, value in content.items()}


def _told(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optserve-server",
        description="Optimizer steps as a service.",
        epilog=f"Each flag is also an environment variable ({PREFIX}PORT) and a key of the file (port).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for field in dataclasses.fields(Settings):
        default = "" if field.default == "" else f" (default {_told(field.default)})"
        explanation = field.metadata["help"] + default
        parser.add_argument(_flag(field.name), metavar=field.name.split("_")[-1].upper(), help=explanation)
    return parser
