"""``optserve-server token``: makes a bearer token."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from optserve_server.rpc.tokens import AccessError, add


def main(arguments: Sequence[str]) -> int:
    """Prints a new token, whose hash it has filed; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="optserve-server token",
        description="Makes a bearer token, files its hash, and prints it: it is kept nowhere else."
        " A running server takes it within a second. Delete its entry to revoke it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tokens-file", type=Path, required=True, metavar="FILE", help="made when there is none"
    )
    parser.add_argument("--namespace", required=True, help="where its bearer belongs: a-z, 0-9 and '-'")
    parser.add_argument("--name", default="token", help="who bears it, for people and logs")
    parser.add_argument("--expires-in-days", type=float, metavar="DAYS", help="never, when not stated")
    stated = parser.parse_args(arguments)
    try:
        token = add(stated.tokens_file, stated.name, stated.namespace, stated.expires_in_days)
    except (AccessError, OSError) as error:
        print(f"optserve-server token: {error}", file=sys.stderr)
        return 1
    print(token)
    return 0
