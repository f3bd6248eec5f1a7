//! The tensors of a session, and the checks of what a caller gives for them.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::tensor::{TensorMut, TensorView, element_size, is_convertible, shape_of};
use crate::v1::{self, DataType, ErrorReason};

/// A session's tensors in the order of their bytes.
#[derive(Debug)]
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
            let message = format!("the session has no tensor {name:?}");
            Error::invalid(ErrorReason::UnknownTensor, name, message)
        })
    }

    /// Orders values of whole tensors by their bytes, and checks shapes.
    pub(crate) fn sort<'a>(&self, values: Vec<(String, TensorView<'a>)>) -> Result<Vec<(usize, TensorView<'a>)>> {
        let mut sorted = Vec::with_capacity(values.len());
        for (name, view) in values {
            let position = self.position(&name)?;
            check_shape(&name, &view, &shape_of(&self.tensors[position].shape))?;
            sorted.push((position, view));
        }
        sorted.sort_by_key(|(position, _)| *position);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = &self.tensors[pair[0].0].name;
            return Err(Error::invalid(
                ErrorReason::DuplicateTensor,
                name,
                format!("the tensor {name:?} is given twice"),
            ));
        }
        Ok(sorted)
    }

    /// Collects arrays that are to be filled.
    pub(crate) fn targets<'t, K, V>(&self, into: impl IntoIterator<Item = (K, V)>) -> Result<Targets<'t>>
    where
        K: Into<String>,
        V: Into<TensorMut<'t>>,
    {
        let mut targets = Targets::new();
        for (name, target) in into {
            let (name, target) = (name.into(), target.into());
            let own = &self.tensors[self.position(&name)?];
            let (len, needed) = (target.len(), shape_of(&own.shape).iter().product::<usize>());
            if len != needed {
                let message = format!("{name:?} has {needed} elements, and the array has {len}");
                return Err(Error::invalid(ErrorReason::ShapeMismatch, &name, message));
            }
            check_type(&name, own.dtype(), target.dtype)?;
            targets.insert(name, target);
        }
        Ok(targets)
    }
}

pub(crate) fn check_shape(name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<()> {
    if view.fits(shape) {
        return Ok(());
    }
    let own = view.shape.clone().unwrap_or_else(|| vec![view.len()]);
    let message = format!("{name:?} has the shape {own:?}, but must have {shape:?}");
    Err(Error::invalid(ErrorReason::ShapeMismatch, name, message))
}

pub(crate) fn check_type(name: &str, from: DataType, to: DataType) -> Result<()> {
    if is_convertible(from, to) && element_size(to) > 0 {
        return Ok(());
    }
    let message = format!("{name:?}: elements of {from:?} cannot be transferred as {to:?}");
    Err(Error::invalid(ErrorReason::DtypeMismatch, name, message))
}
