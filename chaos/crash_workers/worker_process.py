"""A process with some workers, a thread each, that train until they are killed.

Each writes what the server acknowledged to a ledger, a line of JSON for each contribution.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time

import optserve
from chaos.crash_workers.contributions import gradient, worker_name
from optserve import errors

STEP_TIMEOUT = 60.0
"""Seconds in which a contribution is answered, restarts of the server included."""


class Trainee:
    """A worker that joins, contributes, and joins again when it was fenced.

    Args:
        session: what it trains.
        worker: its name.
        lease: in seconds.
        ledger: descriptor of the file of what was acknowledged.
    """

    def __init__(self, session: optserve.SessionHandle, worker: str, lease: float, ledger: int) -> None:
        self._session, self._worker, self._lease, self._ledger = session, worker, lease, ledger

    def run(self) -> None:
        """Trains."""
        while True:
            try:
                member = self._session.join(self._worker, lease=self._lease, timeout=STEP_TIMEOUT)
                self._train(member)
            except (errors.Unavailable, errors.DeadlineExceeded):
                continue  # the server is restarting

    def _train(self, member: optserve.Member) -> None:
        """Contributes until the epoch has ended."""
        member.pull(timeout=STEP_TIMEOUT)
        number = 1
        while True:
            try:
                result = member.step(gradient(self._worker, member.epoch, number), timeout=STEP_TIMEOUT)
            except errors.Fenced:
                member.close()
                self._note(epoch=member.epoch, fenced=True)
                return
            except (errors.Unavailable, errors.DeadlineExceeded):
                continue  # the same contribution again
            assert result.outcome is not None
            self._note(
                epoch=member.epoch,
                number=number,
                sequence=result.sequence,
                step=result.step,
                outcome=result.outcome.name,
            )
            number += 1

    def _note(self, **facts: object) -> None:
        line = json.dumps({"worker": self._worker, "at": time.monotonic(), **facts}) + "\n"
        os.write(self._ledger, line.encode())  # one write: a kill does not mix lines


def main() -> int:
    """Runs the workers; returns only if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--session", required=True)
    parser.add_argument("--workers", type=int, nargs="+", required=True)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--ledger", required=True)
    stated = parser.parse_args()
    ledger = os.open(stated.ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    failed = threading.Event()

    def run(trainee: Trainee) -> None:
        try:
            trainee.run()
        finally:
            failed.set()

    with optserve.connect(stated.server, timeout=STEP_TIMEOUT) as client:
        session = client.session(stated.session)
        for number in stated.workers:
            trainee = Trainee(session, worker_name(number), stated.lease, ledger)
            threading.Thread(target=run, args=(trainee,), daemon=True).start()
        failed.wait()
        os._exit(1)  # the thread has printed why; the others may wait for the server


if __name__ == "__main__":
    sys.exit(main())
