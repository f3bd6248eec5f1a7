"""The file of named contexts: how to reach servers."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optserve.plotting.spec_parser import WrongItem


@dataclass(frozen=True)
class ServerSettings:
    """How to reach a server; None for a setting that is not stated.

    Attributes:
        server: its address, ``host:port``.
        token: bearer token.
        ca: PEM file of trusted authorities.
        certificate: PEM file of the client's own certificate.
        key: PEM file of that certificate's private key.
        tls: whether the connection uses TLS also without these files.
    """

    server: str | None = None
    token: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    tls: bool | None = None

    def or_else(self, other: ServerSettings) -> ServerSettings:
        """These settings, with those of ``other`` for what is None."""
        own: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **own)

    def with_absolute_paths(self) -> ServerSettings:
        """The same files, named independently of the working directory."""
        paths = {name: getattr(self, name) for name in ("ca", "certificate", "key")}
        found: dict[str, Any] = {name: str(Path(path).absolute()) for name, path in paths.items() if path}
        return dataclasses.replace(self, **found)


class ContextFile:
    """Reads and writes the contexts, which only their owner may read: they contain tokens.

    Attributes:
        path: ``optserve/contexts.json`` in ``$XDG_CONFIG_HOME``, or in ``~/.config``.
    """

    def __init__(self) -> None:
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        self.path = Path(home, "optserve", "contexts.json")

    def load(self) -> tuple[str | None, dict[str, ServerSettings]]:
        """The name of the current context, and all contexts by name.

        Raises:
            RuntimeError: others may read the file, or it is damaged.
            OSError: it cannot be read.
        """
        try:
            with self.path.open(encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise RuntimeError(f"others may read the tokens in {self.path}: chmod 600 {self.path}")
                content = json.load(file)
            contexts = {name: ServerSettings(**settings) for name, settings in content["contexts"].items()}
            return content["current"], contexts
        except FileNotFoundError:
            return None, {}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RuntimeError(f"{self.path} is damaged; delete it or correct it") from error

    def find(self, name: str | None) -> ServerSettings:
        """The settings of a context: of the current one if ``name`` is None, nothing if there is none.

        Raises:
            WrongItem: there is no context of that name.
        """
        current, contexts = self.load()
        wanted = current if name is None else name
        if wanted is None:
            return ServerSettings()
        if wanted not in contexts:
            raise WrongItem(f"there is no context {wanted!r}; known: {', '.join(contexts) or 'none'}")
        return contexts[wanted]

    def save(self, current: str | None, contexts: Mapping[str, ServerSettings]) -> None:
        """Replaces the file.

        Raises:
            OSError: it cannot be written.
        """
        content = {"current": current, "contexts": {name: vars(value) for name, value in contexts.items()}}
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self.path.with_name(f".contexts.{os.getpid()}")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2)
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)
