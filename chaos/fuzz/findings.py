"""What a campaign found, and what an answer may be."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import grpc

SECONDS = 10.0
"""How long the server may take to answer any of the calls."""

EXPECTED = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

INTERNAL_TEXT = re.compile(
    r"Traceback|File \"|\.py\b|Exception|Error\(|object at 0x|site-packages|/usr/|/home/|/root/|numpy|numba"
    r"|google\.protobuf|DecodeError|KeyError|AttributeError|TypeError|ValueError|AssertionError"
)
"""What no status may tell."""


SENDING_FAILED = "Internal error from Core"
"""This client's own word where the server had ended the stream while it was still sending."""


MAX_SHED_SHARE = 1e-4
"""Of the calls, that gRPC may cancel itself. It does so without a reason when hostile peers have begun more
calls than it holds for the server."""


@dataclass
class Findings:
    """What a campaign found.

    Attributes:
        messages: how many were sent.
        shed: calls that gRPC cancelled itself.
        codes: answers by kind and code.
        wrong: descriptions of answers that may not be.
        memory: resident bytes of the server after a fifth of the calls, and at the end.
        descriptors: how many files and sockets the server had open before, and at the end.
        attacks: of hostile peers on the transport, by kind.
        steps: honest steps taken meanwhile.
        over_data: those of them that a data connection carried.
        slowest: seconds that the longest of those took.
    """

    messages: int = 0
    shed: int = 0
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)
    attacks: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    over_data: int = 0
    slowest: float = 0.0

    def judge(
        self, kind: str, code: grpc.StatusCode, told: object, also: set[grpc.StatusCode], sent: str
    ) -> None:
        """Counts an answer, and notes it where it may not be.

        Args:
            kind: what was hostile.
            code: of the answer.
            told: text and metadata of its error.
            also: codes that are right beside the `EXPECTED` ones.
            sent: what it answers, for people.
        """
        if SENDING_FAILED in str(told):
            self.codes[kind, "ended while sending"] += 1
            return
        self.codes[kind, code.name] += 1
        if code is grpc.StatusCode.CANCELLED and code not in also and "request-id" not in str(told):
            self.shed += 1
            return
        if code not in EXPECTED | also or INTERNAL_TEXT.search(str(told)):
            self.wrong.append(f"{kind}: {code.name} {told} for {sent:.2000}")
