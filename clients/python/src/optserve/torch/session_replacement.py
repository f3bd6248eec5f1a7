"""Replacement of a session by another one of its name, which a client that is killed leaves complete."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable

from optserve import errors
from optserve.client import Client
from optserve.session import SessionHandle
from optserve.specs.enums import ExpiryAction
from optserve.specs.session_spec import Lease

STAGING_LEASE = Lease(600.0, on_expiry=ExpiryAction.DELETE)
"""Of sessions that are not complete: the server deletes those whose client was killed."""

Complete = Callable[[SessionHandle], object]
"""Gives an imported session its own lease and durability; until then it has `STAGING_LEASE`."""


def name_staging(session_id: str) -> str:
    """Returns the id of the session that is about to replace another one."""
    digest = hashlib.sha256(session_id.encode()).hexdigest()[:8]
    return f"{session_id[:43]}-{digest}-replacing"


def import_complete(client: Client, file: io.BytesIO, session_id: str, complete: Complete) -> SessionHandle:
    """Imports a session whose file has `STAGING_LEASE`, and completes it."""
    file.seek(0)
    session = client.import_session(file, session_id=session_id)
    complete(session)
    return session


def replace_session(
    client: Client, old: SessionHandle, file: io.BytesIO, complete: Complete
) -> SessionHandle:
    """Replaces a session by that of a file, under the same name.

    The new session is complete, under another name, before the old one is deleted. A client that is killed
    before the deletion has changed nothing; if it is killed after it, `finish_replacement` does the rest.

    Args:
        client: of the server.
        old: is replaced.
        file: an exported session, with `STAGING_LEASE`.
        complete: is called with the imported session.
    """
    session_id = old.name.split("/", 1)[1]
    staging_id = name_staging(session_id)
    with contextlib.suppress(errors.NotFound):
        client.session(staging_id).delete()  # of a client that was killed
    staged = import_complete(client, file, staging_id, complete)
    with contextlib.suppress(errors.NotFound):
        old.delete()
    try:
        _take_name(staged, session_id)
    except errors.NotFound:  # another client has opened the old session meanwhile, and dropped this one
        with contextlib.suppress(errors.AlreadyExists):
            import_complete(client, file, session_id, complete)
    return client.session(session_id)


def finish_replacement(client: Client, session_id: str) -> None:
    """Completes or drops what a client that was killed has begun.

    The session that was to replace another one takes its name, if that was deleted already. It is deleted if
    the session that it was to replace still exists.
    """
    try:
        staged = client.session(name_staging(session_id))
    except errors.NotFound:
        return
    with contextlib.suppress(errors.NotFound):
        if staged.spec.lease == STAGING_LEASE:
            staged.delete()
        else:
            _take_name(staged, session_id)


def _take_name(staged: SessionHandle, session_id: str) -> None:
    """Gives a session its name, unless there is a session of it.

    Raises:
        NotFound: another client has done so.
    """
    with contextlib.suppress(errors.AlreadyExists):
        staged.snapshots.fork(session_id=session_id)
    staged.delete()
