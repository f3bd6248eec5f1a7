"""Tensors and chunks: viewed, checked, cut and put together again."""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optserve._codec.framing import ChunkView
from optserve.v1.tensor_pb2 import DataType, Tensor
from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields.chunks import Filler, split_chunks
from optserve_server.wire.fields.tensors import DTYPES, array_from, shape_from, tensor_to
from tests.service.wire.support import outcome

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def test_every_element_type_of_the_contract_is_known() -> None:
    assert sorted([0, *DTYPES]) == sorted(DataType.values())


@given(dtype=st.sampled_from(list(DTYPES.values())), shape=SHAPES, data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_tensor_comes_back_to_the_bit(
    dtype: np.dtype[Any], shape: tuple[int, ...], data: st.DataObject
) -> None:
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    sent = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    got = array_from(tensor_to(sent), [dtype])
    assert (got.dtype, got.shape, got.tobytes()) == (dtype, shape, sent.tobytes())


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    message = Tensor(dtype=DataType.DATA_TYPE_BFLOAT16, shape=[1], data=b"\xc0\x3f")
    (value,) = array_from(message, [np.dtype(ml_dtypes.bfloat16)])
    assert float(value) == 1.5


@given(shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_a_shape_is_one_that_an_array_can_have_or_refused(shape: list[int]) -> None:
    found = outcome(lambda: shape_from(shape))
    if isinstance(found, DomainError):
        assert (found.reason, found.field) == (Reason.OUT_OF_RANGE, "shape")
    else:
        assert all(extent >= 0 for extent in found)
        if 0 in found:
            assert np.empty(0, np.float64).reshape(found).shape == found


def test_a_rank_beyond_the_limit_is_refused() -> None:
    with pytest.raises(DomainError):
        shape_from([1] * 33)


@given(payload=st.binary(max_size=200), chunk_bytes=st.integers(1, 64))
def test_what_is_cut_fills_the_same_bytes(payload: bytes, chunk_bytes: int) -> None:
    target = np.zeros(len(payload), np.uint8)
    filler = Filler(target)
    for chunk in split_chunks(np.frombuffer(payload, np.uint8), chunk_bytes):
        assert not filler.is_complete
        assert len(chunk.data) <= chunk_bytes
        filler.add_chunk(chunk)
    assert filler.is_complete
    assert target.tobytes() == payload


@given(chunks=st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=12)), max_size=6))
def test_a_buffer_holds_a_prefix_of_what_followed_without_gaps(chunks: list[tuple[int, bytes]]) -> None:
    target, expected = np.zeros(10, np.uint8), b""
    filler = Filler(target)
    for byte_offset, data in chunks:
        fits = byte_offset == len(expected) and len(expected) + len(data) <= 10
        chunk = ChunkView(byte_offset, memoryview(data))
        refused = outcome(partial(filler.add_chunk, chunk))
        if refused is None:
            expected += data
        else:
            gap = byte_offset != len(expected)
            assert refused.reason is (Reason.STREAM_PROTOCOL if gap else Reason.BYTE_LENGTH_MISMATCH)
        assert fits == (refused is None)
        assert target.tobytes() == expected.ljust(10, b"\0")
        assert filler.is_complete == (len(expected) == 10)
