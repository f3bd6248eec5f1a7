"""``optserve-server token``: makes a bearer token."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = (
    "Makes a bearer token, writes its SHA-256 to the tokens file and prints the token, which is stored"
    " nowhere else. A running server accepts it within a second. To revoke it, delete its entry."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--tokens-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="the server's tokens_file; created if it does not exist",
    )
    parser.add_argument("--namespace", required=True, help="namespace of the bearer: a-z, 0-9 and '-'")
    parser.add_argument("--name", default="token", help="name of the token in logs (default: token)")
    parser.add_argument(
        "--expires-in-days", type=float, metavar="DAYS", help="days until it expires (default: never)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Prints a new token; returns the exit status.

    Raises:
        RuntimeError: the tokens file or a flag is wrong.
        OSError: the tokens file cannot be written.
    """
    from optserve_server.rpc.authentication.tokens import (  # loads what the other commands do not need
        AccessError,
        add_token,
    )

    try:
        print(add_token(parsed.tokens_file, parsed.name, parsed.namespace, parsed.expires_in_days))
    except AccessError as error:
        raise RuntimeError(str(error)) from None
    return 0
