"""The data directory that commands are about."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from optserve_server import config

if TYPE_CHECKING:
    from optserve_server.durability.directory_check import CheckReport


def find_data_dir(parsed: argparse.Namespace) -> Path:
    """The data directory that flags, environment or file name.

    Raises:
        ConfigError: a setting is wrong, or there is no such directory.
    """
    data_dir = config.load_settings(vars(parsed)).data_dir
    if not data_dir:
        raise config.ConfigError("data_dir is not set, but must name the directory")
    if not Path(data_dir).is_dir():
        raise config.ConfigError(f"data_dir is {data_dir!r}, which is no directory")
    return Path(data_dir)


def check_data_directory(root: Path) -> CheckReport:
    """Checks a data directory; changes nothing.

    Raises:
        DirectoryError: a server uses it, or a file is missing that all sessions depend on.
    """
    # Imported here: they take a second of processor time.
    from optserve_server.arrays.numpy_blocked import NumpyBackend
    from optserve_server.durability.directory_check import check_directory
    from optserve_server.durability.recovery import Recovery
    from optserve_server.sessions.namespaces import Namespaces
    from optserve_server.sessions.store import Limits
    from optserve_server.storage.files import ReadOnlyDisk
    from optserve_server.wire.messages.answers import encode_answer
    from optserve_server.wire.specifications.spec_text import SPEC_TEXT

    namespaces = Namespaces(NumpyBackend(), Limits(durable=True))
    with suppress_log():
        examination = Recovery(root, namespaces, SPEC_TEXT, encode_answer, disk=ReadOnlyDisk()).examine()
        try:
            return check_directory(examination)
        finally:
            examination.catalog.close()


@contextlib.contextmanager
def suppress_log() -> Iterator[None]:
    """Suppresses the server's log lines: the report says the same."""
    logger = logging.getLogger("optserve_server")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
