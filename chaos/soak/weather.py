"""Restarts of the network, drawn by a seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.integration.python_client.proxy import Proxy


class Weather:
    """Faults of a network, one after the other, with calm between them.

    Each kind has its turn before any comes again. Half of them strike everywhere at once, the
    others one proxy of the network.

    Args:
        proxies: the network.
        random: what draws kinds and durations.
        longest: seconds that a fault lasts at most.

    Attributes:
        faults: how many there were, by kind.
        longest_fault: seconds that the longest of them lasted.
    """

    def __init__(self, proxies: Sequence[Proxy], random: Random, longest: float) -> None:
        self._proxies, self._random, self._longest = proxies, random, longest
        self._struck = proxies
        self.faults: Counter[str] = Counter()
        self.longest_fault = 0.0

    def run(self, until: float) -> None:
        """Makes faults until that moment of the monotonic clock; the network works afterwards."""
        kinds: list[Callable[[float], None]] = []
        while True:
            kinds = kinds or self._random.sample([self.delay, self.cut, self.black_hole, self.half_open], 4)
            seconds = self._longest * self._random.uniform(0.2, 1.0)
            calm = self._longest * self._random.uniform(0.2, 0.6)
            if time.monotonic() + calm + seconds > until:
                time.sleep(max(0.0, until - time.monotonic()))
                return
            time.sleep(calm)
            fault = kinds.pop()
            self._struck = self._random.choice([self._proxies, [self._random.choice(self._proxies)]])
            fault(seconds)
            self.faults[fault.__name__.replace("_", " ")] += 1
            self.longest_fault = max(self.longest_fault, seconds)

    def delay(self, seconds: float) -> None:
        """Everything comes later, up to 0.1 s in each direction."""
        late = self._random.uniform(0.01, 0.1)
        for proxy in self._struck:
            proxy.delay = late
        time.sleep(seconds)
        for proxy in self._struck:
            proxy.delay = 0.0

    def cut(self, seconds: float) -> None:
        """Every connection is reset, and every new one."""
        for proxy in self._struck:
            proxy.refuses = True
            proxy.cut()
        time.sleep(seconds)
        for proxy in self._struck:
            proxy.refuses = False

    def black_hole(self, seconds: float) -> None:
        """Holds all bytes in both directions without an error, and forwards them later."""
        for proxy in self._struck:
            proxy.answers.clear()
            proxy.requests.clear()
        time.sleep(seconds)
        for proxy in self._struck:
            proxy.requests.set()
            proxy.answers.set()

    def half_open(self, seconds: float) -> None:
        """One end of each connection is lost, and the other learns of it later."""
        for proxy in self._struck:
            proxy.halve()
        time.sleep(seconds)
        for proxy in self._struck:
            proxy.cut()
