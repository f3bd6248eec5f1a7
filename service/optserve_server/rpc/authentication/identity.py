"""Identity of callers: the owner of a token, or anonymous if that is allowed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from optserve_server.errors import DomainError, Reason
from optserve_server.rpc.authentication.tokens import Access, AccessError, Token, hash_token, read_access_file
from optserve_server.sessions.namespaces import DEFAULT, Namespace, Namespaces

_log = logging.getLogger(__name__)

_KEY = "authorization"
_SCHEME = "bearer "


@dataclass(frozen=True)
class Caller:
    """The caller of a request.

    Attributes:
        namespace: what he finds and what he may hold.
        token: what he showed; None if nothing was asked for.
    """

    namespace: Namespace
    token: Token | None = None

    @property
    def name(self) -> str:
        """What logs call him."""
        return self.token.name if self.token is not None else ""


class Identities:
    """Authentication of callers by bearer token.

    Args:
        namespaces: the server's namespaces, whose quotas it keeps up to date.
        path: the file of tokens; None if there is none.
        allow_unauthenticated: whether calls without a token belong to the default namespace.
        allow_world_readable: whether every user may be able to read the file.

    Raises:
        AccessError: the file is wrong.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        path: Path | None = None,
        *,
        allow_unauthenticated: bool = True,
        allow_world_readable: bool = False,
    ) -> None:
        self._allow_world_readable = allow_world_readable
        self.allow_unauthenticated = allow_unauthenticated
        self._namespaces = namespaces
        self._unauthenticated = Caller(namespaces[DEFAULT])
        self.anybody = self._unauthenticated if path is None and allow_unauthenticated else None
        self._path = path
        self._version: object = None
        self._access = Access()
        if path is not None:
            self._version = _file_version(path)
            self._set_access(read_access_file(path, allow_world_readable=allow_world_readable))

    def authenticate(self, metadata: object) -> Caller:
        """Returns the caller of a call with this metadata.

        Raises:
            DomainError: UNAUTHENTICATED.
        """
        if self.anybody is not None:
            return self.anybody
        given = [value for key, value in metadata or () if key == _KEY]  # type: ignore[attr-defined]  # grpc leaves its type open
        if not given and self.allow_unauthenticated:
            return self._unauthenticated
        if len(given) != 1 or not isinstance(given[0], str) or given[0][:7].lower() != _SCHEME:
            raise _authentication_error("a bearer token is needed")
        token = self._access.tokens.get(hash_token(given[0][7:].strip()))
        if token is None or not token.is_valid():
            raise _authentication_error("the token is not known, or no longer valid")
        return Caller(self._namespaces[token.namespace], token)

    def is_valid(self, caller: Caller) -> bool:
        """Whether the token of an open call is still good."""
        token = caller.token
        return token is None or (token.is_valid() and self._access.tokens.get(token.sha256) == token)

    def reload_if_changed(self) -> None:
        """Reads the file again where it has changed; a wrong one is logged and not taken."""
        if self._path is None:
            return
        version = _file_version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._set_access(read_access_file(self._path, allow_world_readable=self._allow_world_readable))
        except AccessError as error:
            _log.error("the tokens stay as they were: %s", error)
            return
        _log.info("tokens read again", extra={"facts": {"tokens": len(self._access.tokens)}})

    def _set_access(self, access: Access) -> None:
        self._access = access
        self._namespaces.set_quotas(access.quotas)


def _file_version(path: Path) -> object:
    """What changes when the file does."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode


def _authentication_error(text: str) -> DomainError:
    return DomainError(Reason.UNAUTHENTICATED, text)
