//! Tensors that are filled with the chunks of an answer.

use crate::error::{Error, Result};
use crate::layout::{Targets, check_type};
use crate::tensor::{Tensor, TensorMut, Tensors, convert, element_size, shape_of};
use crate::v1::{self, Chunk, DataType};

/// Fills the caller's arrays, and new tensors for those that the caller did not give.
pub(crate) struct Reception<'r, 't> {
    slots: Vec<Slot<'r, 't>>,
    byte_count: u64,
    received: u64,
    current: usize,
    filled: usize,
    /// The beginning of an element that was cut by the end of a chunk.
    rest: Vec<u8>,
}

struct Slot<'r, 't> {
    wire: DataType,
    byte_count: usize,
    target: Target<'r, 't>,
}

enum Target<'r, 't> {
    Caller(&'r mut TensorMut<'t>),
    New(String, Tensor),
}

impl<'r, 't> Reception<'r, 't> {
    pub(crate) fn new(layout: &[v1::TensorLayout], byte_count: u64, into: &'r mut Targets<'t>) -> Result<Self> {
        let mut callers: std::collections::HashMap<_, _> = into.iter_mut().collect();
        let mut slots = Vec::with_capacity(layout.len());
        let mut total = 0;
        for tensor in layout {
            let wire = tensor.dtype();
            let shape = shape_of(&tensor.shape);
            let count = shape.iter().product::<usize>();
            let target = if let Some(target) = callers.remove(&&tensor.name) {
                check_type(&tensor.name, wire, target.dtype)?;
                if target.len() != count {
                    return Err(Error::malformed(format!("has another shape of {:?}", tensor.name)));
                }
                Target::Caller(target)
            } else {
                let zeros = Tensor::zeros(wire, shape);
                let tensor_of = || Error::malformed(format!("has no element type of {:?}", tensor.name));
                Target::New(tensor.name.clone(), zeros.ok_or_else(tensor_of)?)
            };
            let byte_count = count * element_size(wire);
            total += byte_count as u64;
            slots.push(Slot { wire, byte_count, target });
        }
        if total != byte_count {
            let message = format!("has {byte_count} bytes of parameters, but their layout has {total}");
            return Err(Error::malformed(message));
        }
        Ok(Self { slots, byte_count, received: 0, current: 0, filled: 0, rest: Vec::new() })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.received == self.byte_count
    }

    /// Takes the next chunk.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<()> {
        let mut data = &chunk.data[..];
        let missing = self.byte_count - self.received;
        if chunk.byte_offset != self.received || data.is_empty() || data.len() as u64 > missing {
            return Err(Error::malformed(format!(
                "has a chunk of {} bytes at {}, but {} of {} bytes were received",
                data.len(),
                chunk.byte_offset,
                self.received,
                self.byte_count
            )));
        }
        self.received += data.len() as u64;
        while !data.is_empty() {
            let slot = &mut self.slots[self.current];
            let (some, behind) = data.split_at(data.len().min(slot.byte_count - self.filled));
            let (dtype, target) = match &mut slot.target {
                Target::Caller(target) => (target.dtype, &mut *target.bytes),
                Target::New(_, tensor) => (tensor.dtype(), tensor.bytes_mut()),
            };
            if dtype == slot.wire {
                target[self.filled..][..some.len()].copy_from_slice(some);
            } else {
                let size = element_size(slot.wire);
                let start = (self.filled - self.rest.len()) / size;
                self.rest.extend_from_slice(some);
                let count = self.rest.len() / size;
                let converted = &mut target[start * element_size(dtype)..][..count * element_size(dtype)];
                convert(&self.rest[..count * size], slot.wire, converted, dtype);
                self.rest.drain(..count * size);
            }
            self.filled += some.len();
            if self.filled == slot.byte_count {
                (self.current, self.filled) = (self.current + 1, 0);
            }
            data = behind;
        }
        Ok(())
    }

    /// The new tensors.
    pub(crate) fn into_tensors(self) -> Tensors {
        let new = self.slots.into_iter().filter_map(|slot| match slot.target {
            Target::New(name, tensor) => Some((name, tensor)),
            Target::Caller(_) => None,
        });
        new.collect()
    }
}
