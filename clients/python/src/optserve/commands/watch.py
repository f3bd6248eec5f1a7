"""``optserve watch``: copies of the histories of sessions in TensorBoard's event files and runs of MLflow."""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from optserve import errors
from optserve.client import Client
from optserve.commands.command_parser import Subparsers, add_command
from optserve.commands.connection import open_client
from optserve.commands.output import print_json
from optserve.extras import import_extra
from optserve.plotting.spec_parser import WrongItem
from optserve.recording.destination import Destination
from optserve.recording.session_recorder import SessionRecorder

KEYS = ("session", "destination", "steps")
NOTES = (
    "Each session is a run: a folder in DIR, or a run of the experiment optserve. The command continues where"
    " an earlier one ended, with every step that the server's history still has. It ends when the sessions"
    " that it names are deleted."
)

LIST_PERIOD_S = 2.0
"""Seconds between two looks for new sessions."""

Make = Callable[[str], Destination]
"""Makes the destination of a session, of whose resource name."""


def add_to(commands: Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary = "record the steps and metrics of sessions for TensorBoard and MLflow"
    parser = add_command(commands, "watch", summary, run, keys=KEYS, form="lines", notes=NOTES)
    parser.add_argument("words", nargs="*", metavar="SESSION", help="id, or sessions/{id}; default: all")
    parser.add_argument("--tensorboard", metavar="DIR", help="write event files (extra tensorboard)")
    uri = "write runs: a tracking URI or a directory (extra mlflow)"
    parser.add_argument("--mlflow", metavar="URI", help=uri)
    parser.add_argument("--once", action="store_true", help="record what there is now, and end")


def run(options: argparse.Namespace) -> None:
    """Records until the named sessions are deleted; all sessions, including new ones, if none is named.

    Raises:
        WrongItem: there is no destination.
        ImportError: an extra is missing.
        RuntimeError: another process records a session there.
        OptserveError: an error of the server.
    """
    makers = _list_makers(options)
    if not makers:
        raise WrongItem("watch needs --tensorboard DIR or --mlflow URI")
    with open_client(options) as client:
        watch = _Watch(client, makers, options)
        if options.once:
            for name in options.words or [info.name for info in client.sessions()]:
                for kind in makers:
                    watch.record(kind, client.session(name).name)
        elif options.words:
            watch.start(client.session(name).name for name in options.words)
            while not watch.wait(LIST_PERIOD_S):
                pass
        else:
            while True:
                with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):
                    watch.start([info.name for info in client.sessions()])
                watch.wait(LIST_PERIOD_S)


def _list_makers(options: argparse.Namespace) -> dict[str, Make]:
    makers: dict[str, Make] = {}
    if options.tensorboard is not None:
        event_files = import_extra("optserve.recording.event_files", "tensorboard", "tensorboard")
        folder = Path(options.tensorboard)
        makers["tensorboard"] = lambda name: event_files.EventFiles(folder / name.split("/")[-1])
    if options.mlflow is not None:
        mlflow_runs = import_extra("optserve.recording.mlflow_runs", "mlflow", "mlflow")
        makers["mlflow"] = lambda name: mlflow_runs.MlflowRuns(options.mlflow, name)
    return makers


class _Watch:
    """Recorders of sessions, each in a thread of its own, which waits for the server most of the time."""

    def __init__(self, client: Client, makers: dict[str, Make], options: argparse.Namespace) -> None:
        self._client = client
        self._makers = makers
        self._options = options
        self._threads: dict[tuple[str, str], threading.Thread] = {}
        self._changed = threading.Condition()
        self._failure: Exception | None = None

    def start(self, names: Iterable[str]) -> None:
        """Starts to record sessions that are not being recorded."""
        for name in names:
            for kind in self._makers:
                with self._changed:
                    if (kind, name) in self._threads:
                        continue
                    thread = threading.Thread(target=self._run, args=(kind, name), daemon=True)
                    self._threads[kind, name] = thread
                thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits until nothing is recorded any more; False if that is not so after some seconds.

        Raises:
            Exception: what a recorder raised.
        """
        with self._changed:
            is_over = self._changed.wait_for(lambda: self._failure or not self._threads, seconds)
            if self._failure is not None:
                raise self._failure
            return bool(is_over)

    def record(self, kind: str, name: str) -> None:
        """Records a session; prints how many steps when it has ended."""
        try:
            session = self._client.session(name)
        except errors.NotFound:
            return
        destination = self._makers[kind](name)
        recorder = SessionRecorder(session, destination)
        try:
            if self._options.once:
                recorder.copy()
            else:
                recorder.record()
        finally:
            destination.close()
        record = {"session": name, "destination": kind, "steps": recorder.steps}
        if self._options.json:
            print_json(record, indent=None)
        else:
            print(f"{name}: {recorder.steps} steps recorded for {kind}", flush=True)

    def _run(self, kind: str, name: str) -> None:
        failure = None
        try:
            self.record(kind, name)
        except Exception as error:
            failure = error
        with self._changed:
            self._threads.pop((kind, name), None)
            self._failure = self._failure or failure
            self._changed.notify_all()
