"""Flower's FedAvg over its own gRPC: a server, and a process of each client.

It runs in Flower's environment, which has nothing of optserve.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import flwr
import grpc
import numpy as np
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAvg

from benchmarks.contenders import fleet
from benchmarks.contenders.worker import Parameters

ROUNDS = 10**9
MESSAGE_BYTES = 512 << 20
RETRY_SECONDS = 0.2


class Client(flwr.client.NumPyClient):  # type: ignore[misc]  # Flower's environment has no types here
    """A client whose training adds its gradient to the parameters."""

    def __init__(self, gradient: Parameters) -> None:
        self._gradient = gradient

    def fit(self, parameters: list[Parameters], config: Any) -> tuple[list[Parameters], int, dict[str, Any]]:
        """The parameters after training, of one example."""
        return [parameters[0] + self._gradient], 1, {}


class Paced(FedAvg):  # type: ignore[misc]
    """FedAvg whose rounds begin when they are asked for."""

    def __init__(self, n: int, count: int) -> None:
        initial = ndarrays_to_parameters([np.zeros(n, np.float32)])
        super().__init__(
            fraction_evaluate=0.0,
            min_fit_clients=count,
            min_available_clients=count,
            initial_parameters=initial,
        )
        self._permits, self._closed = threading.Semaphore(0), threading.Semaphore(0)
        self._last: Any = initial

    def configure_fit(self, *arguments: Any, **named: Any) -> Any:
        """Begins a round."""
        self._permits.acquire()
        return super().configure_fit(*arguments, **named)

    def aggregate_fit(self, *arguments: Any, **named: Any) -> Any:
        """Ends a round."""
        found = super().aggregate_fit(*arguments, **named)
        self._last = found[0]
        self._closed.release()
        return found

    def take(self, rounds: int) -> Parameters:
        """The parameters after so many rounds."""
        for _ in range(rounds):
            self._permits.release()
            self._closed.acquire()
        values: Parameters = parameters_to_ndarrays(self._last)[0]
        return values

    def time_steps(self, repeats: int) -> float:
        """The seconds of so many rounds, after some that do not count."""
        self.take(max(1, round(fleet.WARM_UP_SHARE * repeats)))
        begun = time.perf_counter()
        self.take(repeats)
        return time.perf_counter() - begun


def make_step(rank: int, arguments: Sequence[str]) -> fleet.Step:
    """A client, which takes part in rounds until its process is ended."""
    address, size = arguments
    client = Client(fleet.gradient_of(rank, int(size))).to_client()

    def take_part() -> None:
        while True:
            try:
                flwr.client.start_client(
                    server_address=address,
                    client=client,
                    insecure=True,
                    grpc_max_message_length=MESSAGE_BYTES,
                )
            except grpc.RpcError:  # the server is not there yet
                time.sleep(RETRY_SECONDS)

    threading.Thread(target=take_part, daemon=True).start()
    return lambda: np.zeros(0)


def answer(strategy: Paced) -> None:
    """Serves until standard input closes; the clients end with this process."""
    fleet.serve(strategy.time_steps, strategy.take)
    os._exit(0)


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("size", type=int)
    parser.add_argument("--workers", type=int, required=True)
    stated = parser.parse_args()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    strategy = Paced(stated.size, stated.workers)
    with fleet.workers_of(make_step, stated.workers, (address, str(stated.size))):
        # Flower's server wants the main thread, for its signals.
        threading.Thread(target=answer, args=(strategy,), daemon=True).start()
        flwr.server.start_server(
            server_address=address,
            config=flwr.server.ServerConfig(num_rounds=ROUNDS),
            strategy=strategy,
            grpc_max_message_length=MESSAGE_BYTES,
        )


if __name__ == "__main__":
    main()
