"""Where parameters go when they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optserve import errors
from optserve._codec.buffer_pool import Recycler
from optserve._codec.caller_arrays import Into
from optserve._codec.chunks import Filling, Joined
from optserve._codec.dtypes import Array
from optserve._codec.framing import ChunkAhead, ChunkView, Encoded
from optserve._codec.parameters_header import Contents
from optserve.parameters import Parameters
from optserve.progress import Bar


class Landing:
    """Takes the parameters of one answer after another, by one thread at a time.

    Args:
        recycler: gives the memory of results.
    """

    def __init__(self, recycler: Recycler) -> None:
        self._recycler = recycler
        self._into: Into | None = None

    def take(
        self,
        contents: Contents,
        step: int,
        chunks: Iterable[ChunkView | ChunkAhead | None],
        into: Mapping[str, Array] | None,
        bar: Bar,
    ) -> Parameters:
        """Reads parameters.

        Args:
            contents: what arrives.
            step: which it belongs to.
            chunks: the bytes, by message; None for a message without any.
            into: the caller's arrays; new ones when None.
            bar: is told of the bytes.

        Raises:
            Unavailable: the stream ended too early.
            Internal: the chunks do not fit together.
        """
        if into is None:
            joined = Joined(contents.byte_count, self._recycler.take(contents.byte_count))
            _fill(joined, chunks, bar)
            arrays = contents.arrays(joined.buffer)
        else:
            if self._into is None or not self._into.serves(into, contents):
                self._into = Into(into, contents)
            _fill(Filling(self._into.pieces), chunks, bar)
            arrays = self._into.arrays()
        return Parameters(arrays, step=step, point=contents.point, modified=contents.modified)

    def whole(
        self, contents: Contents, step: int, received: Encoded, start: int, into: Mapping[str, Array] | None
    ) -> Parameters:
        """Parameters whose bytes are all there, and few.

        Args:
            contents: what they hold.
            step: which they belong to.
            received: holds the bytes.
            start: where in it they begin.
            into: the caller's arrays; new ones when None.
        """
        if into is None:
            arrays = contents.copied(received, start)
        else:
            if self._into is None or not self._into.serves(into, contents):
                self._into = Into(into, contents)
            arrays = self._into.fill(memoryview(received)[start:])
        return Parameters(arrays, step=step, point=contents.point, modified=contents.modified)


def _fill(filling: Filling, chunks: Iterable[ChunkView | ChunkAhead | None], bar: Bar) -> None:
    for chunk in chunks:
        if chunk is not None:
            try:
                bar.update(filling.add(chunk))
            except ValueError as error:
                raise errors.Internal(str(error)) from error
        if filling.whole:
            return
    raise errors.Unavailable("the stream ended before its answer")
