"""Permissions of files with secrets."""

from __future__ import annotations

import stat
from pathlib import Path


def check_not_world_readable(path: Path) -> None:
    """Rejects a file that every user of the machine may read.

    Raises:
        PermissionError: it may be read by others than its owner and group.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IROTH:
        raise PermissionError(
            f"every user may read {path} (mode {mode:04o}); remove that permission (chmod o-r), or set"
            " allow_world_readable_secrets"
        )
