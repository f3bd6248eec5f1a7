//! Conversions of ndarray's arrays.

use ndarray::{ArrayD, ArrayRef, Dimension, IxDyn, ShapeBuilder};

use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, TensorMut, TensorView};
use crate::v1::ErrorReason;

/// A view of an array in standard layout; of others, a copy.
impl<'a, T: Element, D: Dimension> From<&'a ArrayRef<T, D>> for TensorView<'a> {
    fn from(array: &'a ArrayRef<T, D>) -> Self {
        match array.as_slice() {
            Some(elements) => Self::new(elements).shape(array.shape()),
            None => Tensor::new(array.iter().copied().collect(), array.shape()).into(),
        }
    }
}

/// Fails if the array is not in standard layout.
impl<'a, T: Element, D: Dimension> TryFrom<&'a mut ArrayRef<T, D>> for TensorMut<'a> {
    type Error = Error;

    fn try_from(array: &'a mut ArrayRef<T, D>) -> Result<Self> {
        let message = "an array that is filled must be in standard layout";
        let elements = array.as_slice_mut();
        elements.map(Self::new).ok_or_else(|| Error::invalid(ErrorReason::ShapeMismatch, "into", message))
    }
}

impl Tensor {
    /// The elements as an array; `None` if they have another type.
    pub fn into_array<T: Element>(self) -> Option<ArrayD<T>> {
        let shape = IxDyn(self.shape()).into_shape_with_order();
        ArrayD::from_shape_vec(shape, self.into_vec()?).ok()
    }
}
