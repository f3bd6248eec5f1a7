//! Conversions of ndarray's arrays.

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::error::{Error, Result};
use crate::tensor::{Element, Tensor, TensorMut};
use crate::v1::ErrorReason;

/// A view of an array in standard layout; of others, a copy.
impl<'a, T: Element, D: Dimension> From<&'a ArrayRef<T, D>> for Tensor<'a> {
    fn from(array: &'a ArrayRef<T, D>) -> Self {
        let copy = || Tensor::from(array.iter().copied().collect::<Vec<T>>());
        array.as_slice().map_or_else(copy, Self::new).with_shape(array.shape())
    }
}

/// Fails if the array is not in standard layout.
impl<'a, T: Element, D: Dimension> TryFrom<&'a mut ArrayRef<T, D>> for TensorMut<'a> {
    type Error = Error;

    fn try_from(array: &'a mut ArrayRef<T, D>) -> Result<Self> {
        let message = "an array that is filled must be in standard layout";
        let elements = array.as_slice_mut().map(Self::from);
        elements.ok_or_else(|| Error::invalid(ErrorReason::ShapeMismatch, "into", message))
    }
}

impl Tensor<'_> {
    /// A copy of the elements as an array; `None` if they have another type.
    pub fn to_array<T: Element>(&self) -> Option<ArrayD<T>> {
        ArrayD::from_shape_vec(self.shape(), self.as_slice()?.to_vec()).ok()
    }
}
