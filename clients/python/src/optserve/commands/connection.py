"""The server of a command: options over environment over context over default."""

from __future__ import annotations

import argparse
import os
from typing import Any

from optserve import tls
from optserve.client import Client, connect
from optserve.commands.context_file import ContextFile, ServerSettings
from optserve.commands.transfer_bar import make_transfer_bar

DEFAULT = ServerSettings(server="localhost:50051")
VARIABLES = {name: f"OPTSERVE_{name.upper()}" for name in ("server", "token", "ca", "certificate", "key")}
CONTEXT_VARIABLE = "OPTSERVE_CONTEXT"
TIMEOUT_S = 60.0


def open_client(options: argparse.Namespace, address: str | None = None) -> Client:
    """A client of the server that a command line names.

    Args:
        options: of the command.
        address: of a server that the command started, which needs neither TLS nor a token.

    Raises:
        ValueError: a setting is wrong.
        RuntimeError, OSError: a file of the settings cannot be used.
    """
    settings = ServerSettings(server=address) if address else find_settings(options)
    credentials = None
    if settings.tls or settings.ca or settings.certificate or settings.key:
        credentials = tls.credentials(settings.ca, settings.certificate, settings.key)
    timeout = TIMEOUT_S if options.timeout is None else options.timeout
    return connect(
        settings.server or "",
        timeout=timeout,
        token=settings.token,
        credentials=credentials,
        progress=make_transfer_bar,
    )


def find_settings(options: argparse.Namespace) -> ServerSettings:
    """The settings of a command.

    The current context belongs to one server: its token is not sent to another one, which an option or
    the environment names, unless the context is named as well.

    Raises:
        WrongItem: there is no context of that name.
    """
    stated = find_stated_settings(options)
    named = options.context or os.environ.get(CONTEXT_VARIABLE)
    if named is None and stated.server is not None:
        return stated.or_else(DEFAULT)
    return stated.or_else(ContextFile().find(named)).or_else(DEFAULT)


def find_stated_settings(options: argparse.Namespace) -> ServerSettings:
    """The settings that options or the environment state."""
    flags: dict[str, Any] = {name: getattr(options, name) for name in VARIABLES}
    variables: dict[str, Any] = {n: os.environ.get(variable) or None for n, variable in VARIABLES.items()}
    return ServerSettings(**flags, tls=options.tls or None).or_else(ServerSettings(**variables))
