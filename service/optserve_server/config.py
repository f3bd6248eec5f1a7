"""Settings of the server. Precedence: flags, environment, file, defaults.

Each field of `Settings` is a setting. ``max_sessions`` is the flag ``--max-sessions``, the
environment variable ``OPTSERVE_MAX_SESSIONS`` and the key ``max_sessions`` of the TOML file that
``--config`` names.
"""

from __future__ import annotations

import argparse
import difflib
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from optserve_server.storage.failpoints import VARIABLE as FAILPOINT_VARIABLE

PREFIX = "OPTSERVE_"
"""Prefix of the environment variables of this project."""

CLIENT_VARIABLES = tuple(
    f"OPTSERVE_{name}" for name in ("SERVER", "TOKEN", "CA", "CERTIFICATE", "KEY", "CONTEXT")
)
"""Environment variables that clients read; the server ignores them."""

METRICS_PORT = 9464
"""Default port of the metrics, as of OpenTelemetry's Prometheus exporters."""


class ConfigError(Exception):
    """A setting is wrong; the message names it, its source and the allowed values."""


def _byte_size_field(default: int, low: int, high: int, description: str) -> Any:
    """A setting in bytes, stated as a whole number or with a unit."""
    return Field(ByteSize(default), ge=low, le=high, description=description, examples=["64MiB"])


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
"""A duration of at most a day."""
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseSettings):
    """Settings of one server."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        validate_default=False,
        str_strip_whitespace=True,
        cli_kebab_case=True,
    )

    config: Text = Field("", description="TOML file with settings")
    host: Text = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(50051, description="port to listen on; 0 picks a free one")
    tcp: bool = Field(True, description="listen on host and port; no needs unix_socket")
    data_port: Port | Literal["auto", "off"] = Field(
        "auto",
        description="port, at the same host, of data connections beside gRPC; auto and 0 pick a free one,"
        " off disables them; with TLS there are none",
    )
    unix_socket: Text = Field(
        "", description="path of a Unix domain socket to listen on, for the server's user only"
    )
    tls_certificate: Text = Field("", description="PEM file with the server's certificate chain")
    tls_key: Text = Field("", description="PEM file with the certificate's private key")
    tls_client_ca: Text = Field(
        "", description="PEM file with certificate authorities; clients must present a certificate of one"
    )
    allow_plaintext_beyond_loopback: bool = Field(
        False, description="allow unencrypted gRPC, bearer tokens included, on non-loopback addresses"
    )
    allow_world_readable_secrets: bool = Field(
        False, description="allow a tls_key and a tokens_file that every user of the machine may read"
    )
    tokens_file: Text = Field("", description="TOML file with bearer tokens and quotas")
    allow_unauthenticated: Literal["auto", "yes", "no"] = Field(
        "auto", description="accept calls without a token; auto accepts them when tokens_file is not set"
    )
    reflection: bool = Field(True, description="serve gRPC reflection")
    shared_memory: bool = Field(
        True, description="share memory with clients of the server's user on the same host"
    )
    shared_memory_idle_seconds: Seconds = Field(
        600.0,
        description="seconds after which shared memory that no stream uses is released; 0 is never",
    )
    max_shared_memory_descriptors: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="file descriptors that shared memory may hold; 0 is half of RLIMIT_NOFILE",
    )
    port_file: Text = Field("", description="file to write the port to when the server is ready")
    backend: Literal["auto", "numpy", "numba", "cupy"] = Field(
        "auto", description="executor of the kernels; auto picks the fastest one that is installed"
    )
    metrics_host: Text = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    metrics_port: Port | Literal["auto", "off"] = Field(
        "auto",
        description=f"port of /metrics, /healthz and /readyz; auto is {METRICS_PORT} if it is free,"
        " 0 picks a free one, off disables them",
    )
    dashboard: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="serve the dashboard at metrics_host and metrics_port; auto serves it if that is a"
        " loopback address",
    )
    traces: bool = Field(
        False, description="export traces to the OpenTelemetry collector at OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="form of the log on standard error; auto is text on a terminal, else json"
    )
    grace_seconds: Seconds = Field(10.0, description="seconds that calls in flight get after SIGTERM")
    max_concurrent_rpcs: int = Field(1000, ge=1, le=1_000_000, description="calls in flight at once")
    max_calls_per_connection: int = Field(
        1000, ge=1, le=1_000_000, description="calls at once on one connection; more wait in the client"
    )
    max_connections: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="gRPC connections at once; 0 is a quarter of RLIMIT_NOFILE",
    )
    max_connections_per_peer: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="gRPC connections of one IPv4 address or IPv6 /64 at once; 0 is half of max_connections,"
        " at most 1024",
    )
    handshake_seconds: Seconds = Field(
        10.0, gt=0, description="seconds within which a new connection must be ready for calls"
    )
    connection_idle_seconds: Seconds = Field(
        600.0, description="seconds after which a connection without a call is closed; 0 is never"
    )
    max_message_bytes: ByteSize = _byte_size_field(
        64 << 20, 1 << 16, 2**31 - 1, "bytes of the largest message received or sent"
    )
    max_sessions: int = Field(1000, ge=0, le=10**9, description="number of sessions; 0 is unlimited")
    max_session_bytes: ByteSize = _byte_size_field(8 << 30, 0, 2**62, "bytes of one session; 0 is unlimited")
    max_tensors: int = Field(
        100_000, ge=0, le=10**9, description="number of tensors of a session; 0 is unlimited"
    )
    max_tensor_rank: int = Field(32, ge=1, le=64, description="number of dimensions of a tensor")
    max_memory_bytes: ByteSize = _byte_size_field(
        0, 0, 2**62, "bytes of all sessions and transfers; 0 is three quarters of the available memory"
    )
    max_bytes_in_flight: ByteSize = _byte_size_field(
        0, 0, 2**62, "bytes of transfers in flight; 0 is unlimited"
    )
    stream_idle_seconds: Seconds = Field(
        600.0, description="seconds after which a silent stream is closed; 0 is never"
    )
    session_lease_seconds: Seconds = Field(
        0.0, description="seconds after which an unused session without its own lease expires; 0 is never"
    )
    data_dir: Text = Field("", description="directory of durable sessions; unset keeps sessions in memory")
    durability: Literal["auto", "journal", "snapshot", "ephemeral"] = Field(
        "auto",
        description="durability of sessions that state none; auto is journal with data_dir, else ephemeral",
    )
    snapshot_generations: int = Field(
        2, ge=1, le=1000, description="automatic snapshots to retain per session"
    )
    journal_bytes: ByteSize = _byte_size_field(
        2 << 30, 1 << 20, 2**62, "bytes of journal above which sessions are saved so that it can shrink"
    )
    grpc_event_engine: bool = Field(
        False,
        description="let gRPC use its event engine, which is slower for streams; GRPC_EXPERIMENTS in the"
        " environment takes precedence",
    )
    threads: int = Field(2, ge=1, le=1024, description="threads for work too long for the event loop")

    @field_validator("*", mode="before")
    @classmethod
    def _stringify_booleans(cls, value: object) -> object:
        """Reads a file's true and false as words: Python takes them for the numbers 1 and 0."""
        return str(value).lower() if isinstance(value, bool) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment variables and, where one of them names it, a file."""
        path = {**env_settings(), **init_settings()}.get("config")
        return init_settings, env_settings, *([_read_config_file(settings_cls, path)] if path else [])


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every setting."""
    parser.argument_default = argparse.SUPPRESS
    CliSettingsSource(Settings, root_parser=parser)


def load_settings(flags: Mapping[str, object]) -> Settings:
    """Settings from flags, environment variables and file.

    Args:
        flags: value by name of a setting, as a parser with `add_flags` returns them. Other names
            are ignored.

    Raises:
        ConfigError: a value is wrong, the file cannot be read, or it or the environment states an
            unknown setting.
    """
    flags = {name: value for name, value in flags.items() if name in Settings.model_fields}
    variables = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    stated = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    known = (*variables, *CLIENT_VARIABLES, FAILPOINT_VARIABLE)
    _reject_unknown_names(stated, known, "environment variable {}")
    try:
        return Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as caught:
        error = caught.errors(include_url=False)[0]
    name = str(error["loc"][0])
    if name in flags:
        origin = f"flag --{name.replace('_', '-')}"
    elif f"{PREFIX}{name.upper()}" in stated:
        origin = f"environment variable {PREFIX}{name.upper()}"
    else:
        path = flags.get("config") or os.environ[f"{PREFIX}CONFIG"]
        origin = f"key {name} of {path}"
    allowed = _describe_allowed(Settings.model_json_schema(mode="serialization")["properties"][name])
    raise ConfigError(f"{name} is {error['input']!r}, but must be {allowed} (from {origin})")


def _read_config_file(settings: type[BaseSettings], path: str) -> TomlConfigSettingsSource:
    """Reads a configuration file."""
    try:
        source = TomlConfigSettingsSource(settings, Path(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from None
    if not Path(path).is_file():  # the source takes a missing file for an empty one
        raise ConfigError(f"cannot read the configuration file {path}: no such file")
    _reject_unknown_names(source(), settings.model_fields.keys() - {"config"}, f"setting {{}} in {path}")
    return source


def _reject_unknown_names(stated: Collection[str], known: Collection[str], kind: str) -> None:
    """Refuses a misspelt name, which would otherwise have no effect.

    Args:
        stated: the names.
        known: names that are allowed.
        kind: what is named, with a place for the name.

    Raises:
        ConfigError: a stated name is not known; the message has the nearest known one.
    """
    for name in sorted(set(stated).difference(known)):
        nearest = difflib.get_close_matches(name, known, 1)
        hint = f"; the nearest known name is {nearest[0]!r}" if nearest else ""
        raise ConfigError(f"unknown {kind.format(repr(name))}{hint}")


_KINDS = {
    "integer": "a whole number",
    "number": "a number of seconds",
    "boolean": "yes or no",
    "string": "a non-empty text",
}


def _describe_allowed(schema: Mapping[str, Any]) -> str:
    """Allowed values of a setting in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(_describe_allowed, schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    # Pydantic leaves a size's bounds under their Python names.
    low, high = (
        schema.get(size, schema.get(number)) for size, number in (("ge", "minimum"), ("le", "maximum"))
    )
    bounds = "" if low is None else f" from {low} to {high}"
    example = f", such as {schema['examples'][0]}" if "examples" in schema else ""
    return _KINDS[schema["type"]] + bounds + example
