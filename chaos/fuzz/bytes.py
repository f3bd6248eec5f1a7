"""Bytes that were altered at random."""

from __future__ import annotations

from random import Random


def alter(random: Random, message: bytes) -> bytes:
    """A message with some bytes flipped, cut out, doubled or put in."""
    data = bytearray(message)
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0 if place < len(data):
                data[place] ^= 1 << random.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = data[place : place + random.randrange(20)]
            case _:
                data[place:place] = random.randbytes(random.randrange(1, 8))
    return bytes(data)
