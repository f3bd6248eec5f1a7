//! The tensors of a session, and the checks of what a caller gives for them.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorMut, element_size, is_convertible, shape_of};
use crate::v1::{self, DataType, ErrorReason};

/// A session's tensors in the order of their bytes.
pub(crate) struct Layout {
    pub(crate) tensors: Vec<v1::TensorLayout>,
    index: HashMap<String, usize>,
    pub(crate) byte_count: u64,
}

/// Arrays of the caller by tensor name, to be filled.
pub(crate) type Targets<'t> = HashMap<String, TensorMut<'t>>;

impl Layout {
    pub(crate) fn new(tensors: Vec<v1::TensorLayout>) -> Self {
        let index = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        let byte_count = tensors.iter().map(|tensor| tensor.byte_count).sum();
        Self { tensors, index, byte_count }
    }

    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        self.index.get(name).copied().ok_or_else(|| {
            Error::invalid(ErrorReason::UnknownTensor, name, format!("the session has no tensor {name:?}"))
        })
    }

    /// Orders whole tensors by their bytes, and checks their shapes.
    pub(crate) fn sort<'a>(&self, values: Vec<(String, Tensor<'a>)>) -> Result<Vec<(usize, Tensor<'a>)>> {
        let mut sorted = Vec::with_capacity(values.len());
        for (name, tensor) in values {
            let position = self.position(&name)?;
            check_shape(&name, &tensor, &shape_of(&self.tensors[position].shape))?;
            sorted.push((position, tensor));
        }
        sorted.sort_by_key(|(position, _)| *position);
        Ok(sorted)
    }

    /// Collects arrays that are to be filled.
    pub(crate) fn targets<'t, K: Into<String>, V: Into<TensorMut<'t>>>(
        &self,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Targets<'t>> {
        let into: Targets<'t> = into.into_iter().map(|(name, target)| (name.into(), target.into())).collect();
        for (name, target) in &into {
            let own = &self.tensors[self.position(name)?];
            check_type(name, own.dtype(), target.dtype)?;
            let count = shape_of(&own.shape).iter().product::<usize>();
            if target.bytes.len() != count * element_size(target.dtype) {
                let message = format!("{name:?} has {count} elements, unlike the array that is to be filled");
                return Err(Error::invalid(ErrorReason::ShapeMismatch, name, message));
            }
        }
        Ok(into)
    }
}

pub(crate) fn check_shape(name: &str, tensor: &Tensor<'_>, shape: &[usize]) -> Result<()> {
    let fits = tensor.shape.as_ref().is_none_or(|own| own == shape);
    if fits && tensor.count() == shape.iter().product::<usize>() {
        return Ok(());
    }
    let message = format!("{name:?} has the shape {:?}, but must have {shape:?}", tensor.shape());
    Err(Error::invalid(ErrorReason::ShapeMismatch, name, message))
}

pub(crate) fn check_type(name: &str, from: DataType, to: DataType) -> Result<()> {
    if is_convertible(from, to) {
        return Ok(());
    }
    let message = format!("{name:?}: elements of {from:?} cannot be transferred as {to:?}");
    Err(Error::invalid(ErrorReason::DtypeMismatch, name, message))
}
