//! Tensors as a sequence of bytes that is sent in chunks.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::error::Result;
use crate::layout::{Layout, check_type};
use crate::tensor::{TensorView, convert, element_size};
use crate::v1::DataType;

/// Bytes of a chunk, which are a multiple of the size of every element.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Tensors one after the other, each in its element type on the wire.
#[derive(Debug, Default)]
pub(crate) struct Payload<'a> {
    parts: Vec<(TensorView<'a>, DataType)>,
    pub(crate) byte_count: usize,
}

/// How much of a payload has been written.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cursor {
    part: usize,
    byte: usize,
    pub(crate) offset: usize,
}

impl<'a> Payload<'a> {
    /// The bytes of whole tensors, which are in the order of the layout: wider types first, so that a
    /// chunk never ends within an element. `wire` unspecified is each tensor's own type.
    pub(crate) fn new(layout: &Layout, sorted: Vec<(usize, TensorView<'a>)>, wire: DataType) -> Result<Self> {
        let mut payload = Self::default();
        for (position, view) in sorted {
            let own = &layout.tensors[position];
            let dtype = if wire == DataType::Unspecified { own.dtype() } else { wire };
            check_type(&own.name, view.dtype, dtype)?;
            payload.push(view, dtype);
        }
        Ok(payload)
    }

    /// Appends a tensor, which behind a narrower type must have its type on the wire.
    pub(crate) fn push(&mut self, view: TensorView<'a>, wire: DataType) {
        self.byte_count += view.len() * element_size(wire);
        self.parts.push((view, wire));
    }

    /// Bytes of the next chunk.
    pub(crate) fn next_len(&self, cursor: &Cursor) -> usize {
        CHUNK_BYTES.min(self.byte_count - cursor.offset)
    }

    /// Writes the next bytes.
    fn write(&self, cursor: &mut Cursor, mut count: usize, buffer: &mut BytesMut) {
        cursor.offset += count;
        while count > 0 {
            let (view, wire) = &self.parts[cursor.part];
            let (from, to) = (element_size(view.dtype), element_size(*wire));
            let some = count.min(view.len() * to - cursor.byte);
            if view.dtype == *wire {
                buffer.put_slice(&view.bytes()[cursor.byte..][..some]);
            } else {
                let start = buffer.len();
                buffer.put_bytes(0, some);
                let source = &view.bytes()[cursor.byte / to * from..][..some / to * from];
                convert(source, view.dtype, &mut buffer[start..], *wire);
            }
            count -= some;
            cursor.byte += some;
            if cursor.byte == view.len() * to {
                (cursor.part, cursor.byte) = (cursor.part + 1, 0);
            }
        }
    }
}

/// Appends a message as gRPC frames it.
pub(crate) fn put_message(buffer: &mut BytesMut, message: &impl Message) {
    let len = message.encoded_len();
    put_prefix(buffer, len);
    message.encode(buffer).expect("the buffer grows");
}

/// Appends a message as gRPC frames it, with the next chunk of a payload as its last field. The
/// elements are written where they are sent from, so that they are copied once.
pub(crate) fn put_chunk(
    buffer: &mut BytesMut,
    head: &impl Message,
    field: u32,
    payload: &Payload<'_>,
    cursor: &mut Cursor,
) {
    let (offset, len) = (cursor.offset as u64, payload.next_len(cursor));
    let offset_len = if offset > 0 { 1 + encoded_len_varint(offset) } else { 0 };
    let chunk_len = offset_len + 1 + encoded_len_varint(len as u64) + len;
    let message_len = head.encoded_len() + 1 + encoded_len_varint(chunk_len as u64) + chunk_len;
    buffer.reserve(5 + message_len);
    put_prefix(buffer, message_len);
    head.encode(buffer).expect("the buffer grows");
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(chunk_len as u64, buffer);
    if offset > 0 {
        encode_key(1, WireType::Varint, buffer);
        encode_varint(offset, buffer);
    }
    encode_key(2, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
    payload.write(cursor, len, buffer);
}

fn put_prefix(buffer: &mut BytesMut, len: usize) {
    buffer.put_u8(0); // not compressed
    buffer.put_u32(u32::try_from(len).expect("a message of a chunk or less"));
}

/// One message as gRPC frames it.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(5 + message.encoded_len());
    put_message(&mut buffer, message);
    buffer.freeze()
}
