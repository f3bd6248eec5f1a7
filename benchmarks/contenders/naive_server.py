"""The server that one would write first: one unary message, plain NumPy, threads.

``python -m benchmarks.contenders.naive_server N CLIENTS``: each client has
parameters of its own, chosen by the request's name.
"""

from __future__ import annotations

import sys
from concurrent import futures

import grpc
import numpy as np

from optserve.v1 import session_service_pb2 as pb
from optserve.v1 import tensor_pb2

METHOD = "/naive.Optimizer/Step"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]


class NaiveAdam:
    """Adam as in the paper, on whole arrays."""

    def __init__(self, n: int) -> None:
        self.p: np.ndarray = np.zeros(n, np.float32)
        self.m: np.ndarray = np.zeros(n, np.float32)
        self.v: np.ndarray = np.zeros(n, np.float32)
        self.t = 0

    def step(self, g: np.ndarray) -> np.ndarray:
        """The parameters after one step."""
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m_hat = self.m / (1 - 0.9**self.t)
        v_hat = self.v / (1 - 0.999**self.t)
        self.p = self.p - 0.001 * m_hat / (np.sqrt(v_hat) + 1e-8)
        return self.p


class Service:
    """The models of all clients, by name."""

    def __init__(self, n: int, clients: int) -> None:
        self._models = {str(i): NaiveAdam(n) for i in range(clients)}

    def step(self, request: pb.StepRequest, context: grpc.ServicerContext) -> pb.StepResponse:
        """Takes one step on the request's only gradient and answers the parameters."""
        g = np.frombuffer(request.gradients[0].tensor.data, np.float32)
        return pb.StepResponse(parameters=[message(self._models[request.name].step(g))])


def message(array: np.ndarray) -> tensor_pb2.NamedTensor:
    """A float32 array as a tensor named w."""
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())
    return tensor_pb2.NamedTensor(name="w", tensor=tensor)


def main() -> None:
    """Serves until standard input closes."""
    handler = grpc.unary_unary_rpc_method_handler(
        Service(int(sys.argv[1]), int(sys.argv[2])).step,
        request_deserializer=pb.StepRequest.FromString,
        response_serializer=pb.StepResponse.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(4), options=OPTIONS)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("naive.Optimizer", {"Step": handler})]
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main()
