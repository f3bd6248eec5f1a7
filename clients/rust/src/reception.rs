//! Tensors that are filled with the chunks of an answer.

use crate::error::{Error, Result};
use crate::layout::Targets;
use crate::tensor::{Buffer, TensorMut, Tensors, convert, element_size, shape_of};
use crate::v1::{self, Chunk};

/// Fills the caller's arrays, and new tensors for those that the caller did not give.
pub(crate) struct Reception<'r, 't> {
    layout: &'r v1::ByteLayout,
    into: &'r mut Targets<'t>,
    new: Vec<(String, Buffer)>,
    received: u64,
    /// The tensor that is filled, and how many of its bytes were received.
    current: usize,
    filled: usize,
    /// The beginning of an element that was cut by the end of a chunk.
    rest: Vec<u8>,
}

impl<'r, 't> Reception<'r, 't> {
    pub(crate) fn new(layout: &'r v1::ByteLayout, into: &'r mut Targets<'t>) -> Result<Self> {
        let counted = |tensor: &v1::TensorLayout| {
            shape_of(&tensor.shape).iter().product::<usize>() * element_size(tensor.dtype())
        };
        let total: u64 = layout.tensors.iter().map(|tensor| tensor.byte_count).sum();
        let fits = |tensor: &v1::TensorLayout| counted(tensor) as u64 == tensor.byte_count;
        if total != layout.byte_count || !layout.tensors.iter().all(fits) {
            return Err(Error::malformed("has parameters that do not fit their layout"));
        }
        Ok(Self { layout, into, new: Vec::new(), received: 0, current: 0, filled: 0, rest: Vec::new() })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.received == self.layout.byte_count
    }

    /// Takes the next chunk.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<()> {
        let mut data = &chunk.data[..];
        let missing = self.layout.byte_count - self.received;
        if chunk.byte_offset != self.received || data.is_empty() || data.len() as u64 > missing {
            return Err(Error::malformed("has a chunk that does not follow the one before it"));
        }
        self.received += data.len() as u64;
        while !data.is_empty() {
            let own = &self.layout.tensors[self.current];
            let (wire, byte_count) = (own.dtype(), own.byte_count as usize);
            let (some, behind) = data.split_at(data.len().min(byte_count - self.filled));
            let (dtype, target) = match self.into.get_mut(&own.name) {
                Some(TensorMut { dtype, bytes }) => (*dtype, &mut **bytes),
                None => {
                    if self.filled == 0 {
                        self.new.push((own.name.clone(), Buffer::new(wire, shape_of(&own.shape))));
                    }
                    (wire, self.new.last_mut().expect("the tensor that is filled").1.bytes_mut())
                }
            };
            if dtype == wire {
                target[self.filled..][..some.len()].copy_from_slice(some);
            } else {
                let (size, start) = (element_size(wire), (self.filled - self.rest.len()) / element_size(wire));
                self.rest.extend_from_slice(some);
                let whole = self.rest.len() / size * size;
                convert(&self.rest[..whole], wire, &mut target[start * element_size(dtype)..], dtype);
                self.rest.drain(..whole);
            }
            self.filled += some.len();
            if self.filled == byte_count {
                (self.current, self.filled) = (self.current + 1, 0);
            }
            data = behind;
        }
        Ok(())
    }

    /// The new tensors.
    pub(crate) fn into_tensors(self) -> Tensors {
        self.new.into_iter().map(|(name, buffer)| (name, buffer.into())).collect()
    }
}
