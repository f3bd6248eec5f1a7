"""Bytes alone over Arrow Flight's DoExchange, in record batches of 1 MiB.

``python -m benchmarks.contenders.flight N [serve]``
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

from benchmarks.contenders.server import serving
from benchmarks.contenders.worker import Parameters, serve

SCHEMA = pa.schema([("w", pa.float32())])
BATCH = 1 << 18


def batches(values: Parameters) -> Iterator[Any]:
    """The elements as record batches that share their memory."""
    for start in range(0, len(values), BATCH):
        yield pa.record_batch([pa.array(values[start : start + BATCH])], schema=SCHEMA)


def read_into(reader: Any, values: Parameters) -> None:
    """Fills the array from as many batches as it takes."""
    for start in range(0, len(values), BATCH):
        part = values[start : start + BATCH]
        part[:] = reader.read_chunk().data.column(0).to_numpy()


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """One buffer, which every exchange fills again."""

    def __init__(self, n: int) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._values = np.empty(n, np.float32)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answers each gradient once all of it is there."""
        writer.begin(SCHEMA)
        while True:
            try:
                read_into(reader, self._values)
            except StopIteration:
                return
            for batch in batches(self._values):
                writer.write_batch(batch)


def answer(n: int) -> None:
    """The server."""
    with Server(n) as server:
        print(server.port, flush=True)
        threading.Thread(target=server.serve, daemon=True).start()
        sys.stdin.read()


def main() -> None:
    """The client, or the server."""
    n = int(sys.argv[1])
    if len(sys.argv) > 2:
        answer(n)
        return
    values = np.empty(n, np.float32)
    with serving("flight", n, "serve") as port, flight.connect(f"grpc://127.0.0.1:{port}") as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("w"))
        writer.begin(SCHEMA)

        def step(gradient: Parameters) -> Parameters:
            for batch in batches(gradient):
                writer.write_batch(batch)
            read_into(reader, values)
            return values

        serve(step, n)
        writer.close()


if __name__ == "__main__":
    main()
