"""Snapshots: safetensors files that any framework reads, with a checksum for every part.

The format's header is JSON: where each tensor lies, and facts as text. It allows no bytes
beside tensors, so the checksums are a tensor themselves, the last one: [n + 1, 16] uint8, the
XXH3-128 of the header and then of each tensor in the order of the file. They are known only
when everything was written, which so needs one pass and no second copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from optserve_server.storage import json_text
from optserve_server.storage.damage import DamagedError
from optserve_server.storage.files import Piece, split_blocks

CHECKSUMS = "checksums"
"""Name of the tensor of checksums."""

_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
_DIGEST = xxhash.xxh3_128().digest_size
_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
    np.dtype(np.uint8): "U8",
}
_DTYPES: dict[str, np.dtype[Any]] = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class TensorSource:
    """A tensor to write: float32, float64 or uint8.

    Attributes:
        name: its name in the file.
        dtype: element type.
        shape: extent of each dimension.
        get: gives its elements, contiguous, when it is its turn.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    get: Callable[[], npt.NDArray[Any]]

    @property
    def byte_count(self) -> int:
        """How many bytes it has."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Contents:
    """A snapshot that was read and verified.

    Attributes:
        metadata: facts as text.
        tensors: by name; views of the file, not to be written to.
        data: the file.
    """

    metadata: dict[str, str]
    tensors: dict[str, npt.NDArray[Any]]
    data: Piece = b""


def count_encoded_bytes(tensors: Sequence[TensorSource], metadata: Mapping[str, str]) -> int:
    """How many bytes `write_snapshot` writes."""
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    values = sum(tensor.byte_count for tensor in tensors)
    return len(_encode_header(ordered, metadata)) + values + (len(tensors) + 1) * _DIGEST


def write_snapshot(
    put: Callable[[Piece], None], tensors: Sequence[TensorSource], metadata: Mapping[str, str]
) -> None:
    """Writes a snapshot.

    Args:
        put: takes the file's bytes, piece by piece.
        tensors: what it holds, each under a name of its own.
        metadata: facts as text.
    """
    # Wide elements first: then every tensor lies at a multiple of its element's size.
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header = _encode_header(ordered, metadata)
    put(header)
    digests = [xxhash.xxh3_128_digest(header)]
    for tensor in ordered:
        hasher = xxhash.xxh3_128()
        data = np.ascontiguousarray(tensor.get()).reshape(-1).view(np.uint8).data
        for block in split_blocks(data) if len(data) else ():
            hasher.update(block)
            put(block)
        digests.append(hasher.digest())
    put(b"".join(digests))


def read_snapshot(data: memoryview, *, needs_checksums: bool = True) -> Contents:
    """Reads a snapshot.

    Args:
        data: the file.
        needs_checksums: whether a file without checksums, as other programs write them, is damaged.

    Raises:
        DamagedError: it is not what `write_snapshot` wrote.
    """
    try:
        header, entries, start = _parse_header(data)
        metadata = entries.pop(_METADATA)
        if not all(isinstance(text, str) for text in metadata.values()):
            raise DamagedError("its metadata is not text")
        spans = sorted((e["data_offsets"], name) for name, e in entries.items() if name != CHECKSUMS)
        digests: Sequence[bytes | None] = [None] * (len(spans) + 1)
        if needs_checksums or CHECKSUMS in entries:
            digests = _read_digests(data, start, entries[CHECKSUMS]["data_offsets"], len(spans))
        _verify_digest(digests[0], header, "the header")
        tensors, position = {}, 0
        for digest, ((begin, end), name) in zip(digests[1:], spans, strict=True):
            if begin != position:
                raise DamagedError(f"tensor {name!r} does not follow the one before it")
            position = end
            piece = data[start + begin : start + end]
            _verify_digest(digest, piece, f"tensor {name!r}")
            dtype = _DTYPES[entries[name]["dtype"]]
            tensors[name] = np.frombuffer(piece, dtype).reshape(entries[name]["shape"])
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DamagedError("the header is damaged") from error
    return Contents(metadata, tensors, data)


def _encode_header(tensors: Sequence[TensorSource], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {_METADATA: dict(metadata)}
    position = 0
    for tensor in tensors:
        entries[tensor.name] = _header_entry(_NAMES[tensor.dtype], tensor.shape, position, tensor.byte_count)
        position += tensor.byte_count
    table = ((len(tensors) + 1), _DIGEST)
    entries[CHECKSUMS] = _header_entry("U8", table, position, table[0] * table[1])
    text = json_text.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def _header_entry(dtype: str, shape: tuple[int, ...], start: int, count: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + count]}


def _parse_header(data: memoryview) -> tuple[memoryview, dict[str, Any], int]:
    """Returns the header's bytes, its content, and the start of the tensors."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if start > len(data):
        raise DamagedError("it is cut off within the header")
    return data[:start], json_text.loads(str(data[_LENGTH.size : start], "utf-8")), start


def _read_digests(data: memoryview, start: int, span: Sequence[int], count: int) -> list[bytes]:
    table = bytes(data[start + span[0] :])
    if span[1] - span[0] != (count + 1) * _DIGEST or len(table) != span[1] - span[0]:
        raise DamagedError("it is cut off, or too long")
    return [table[i : i + _DIGEST] for i in range(0, len(table), _DIGEST)]


def _verify_digest(digest: bytes | None, piece: Piece, what: str) -> None:
    if digest is not None and xxhash.xxh3_128_digest(piece) != digest:
        raise DamagedError(f"{what} is damaged")
