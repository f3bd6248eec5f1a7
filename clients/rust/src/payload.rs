//! Tensors as a sequence of bytes that is sent in chunks.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::error::Result;
use crate::layout::{Layout, check_type};
use crate::tensor::{Tensor, convert, element_size};
use crate::v1::DataType;

/// Bytes of a chunk, a multiple of the size of every element.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Tensors one after the other, each in its element type on the wire.
#[derive(Default)]
pub(crate) struct Payload<'a> {
    parts: Vec<(Tensor<'a>, DataType)>,
    pub(crate) byte_count: usize,
}

/// How much of a payload has been written.
#[derive(Default)]
pub(crate) struct Cursor {
    part: usize,
    byte: usize,
    pub(crate) offset: usize,
}

impl<'a> Payload<'a> {
    /// Whole tensors in the order of the layout: wider types first, so that no chunk ends within an
    /// element. `wire` unspecified is each tensor's own type.
    pub(crate) fn new(layout: &Layout, sorted: Vec<(usize, Tensor<'a>)>, wire: DataType) -> Result<Self> {
        let mut payload = Self::default();
        for (position, tensor) in sorted {
            let own = &layout.tensors[position];
            let dtype = if wire == DataType::Unspecified { own.dtype() } else { wire };
            check_type(&own.name, tensor.dtype, dtype)?;
            payload.push(tensor, dtype);
        }
        Ok(payload)
    }

    /// Appends a tensor; behind a narrower one it must have its type on the wire.
    pub(crate) fn push(&mut self, tensor: Tensor<'a>, wire: DataType) {
        self.byte_count += tensor.count() * element_size(wire);
        self.parts.push((tensor, wire));
    }

    /// Bytes of the next chunk.
    pub(crate) fn next_len(&self, cursor: &Cursor) -> usize {
        CHUNK_BYTES.min(self.byte_count - cursor.offset)
    }

    /// The requests that send the payload; in all of them the chunk is the second field.
    pub(crate) fn requests(&self) -> impl Iterator<Item = Bytes> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(move || {
            (cursor.offset < self.byte_count).then(|| {
                let mut buffer = BytesMut::new();
                put_chunk(&mut buffer, &(), 2, self, &mut cursor);
                buffer.freeze()
            })
        })
    }

    fn write(&self, cursor: &mut Cursor, mut count: usize, buffer: &mut BytesMut) {
        cursor.offset += count;
        while count > 0 {
            let (tensor, wire) = &self.parts[cursor.part];
            let (from, to) = (element_size(tensor.dtype), element_size(*wire));
            let some = count.min(tensor.count() * to - cursor.byte);
            if tensor.dtype == *wire {
                buffer.put_slice(&tensor.bytes()[cursor.byte..][..some]);
            } else {
                let start = buffer.len();
                buffer.put_bytes(0, some);
                let source = &tensor.bytes()[cursor.byte / to * from..][..some / to * from];
                convert(source, tensor.dtype, &mut buffer[start..], *wire);
            }
            (count, cursor.byte) = (count - some, cursor.byte + some);
            if cursor.byte == tensor.count() * to {
                (cursor.part, cursor.byte) = (cursor.part + 1, 0);
            }
        }
    }
}

/// A message as gRPC frames it.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(5 + message.encoded_len());
    put_message(&mut buffer, message, 0);
    buffer.freeze()
}

/// Appends a message as gRPC frames it, of which some bytes follow.
pub(crate) fn put_message(buffer: &mut BytesMut, message: &impl Message, following: usize) {
    let len = message.encoded_len() + following;
    buffer.reserve(5 + len);
    buffer.put_u8(0); // not compressed
    buffer.put_u32(u32::try_from(len).expect("a message that is not much longer than a chunk"));
    message.encode(buffer).expect("the buffer grows");
}

/// Appends a message whose last field is the next chunk of a payload. The elements are written where they
/// are sent from, so that they are copied once.
pub(crate) fn put_chunk(
    buffer: &mut BytesMut,
    head: &impl Message,
    field: u32,
    payload: &Payload<'_>,
    cursor: &mut Cursor,
) {
    let (offset, len) = (cursor.offset as u64, payload.next_len(cursor));
    let chunk_len = 2 + encoded_len_varint(offset) + encoded_len_varint(len as u64) + len;
    put_message(buffer, head, 1 + encoded_len_varint(chunk_len as u64) + chunk_len);
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(chunk_len as u64, buffer);
    encode_key(1, WireType::Varint, buffer);
    encode_varint(offset, buffer);
    encode_key(2, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
    payload.write(cursor, len, buffer);
}
