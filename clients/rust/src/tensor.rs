//! Dense arrays over the caller's memory.

use std::collections::BTreeMap;

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::v1::{self, DataType};

#[cfg(target_endian = "big")]
compile_error!("tensors are sent as they are in memory, which must be little-endian");

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// An element of a tensor: [`f16`], [`bf16`], `f32`, `f64`, `i32` or `i64`.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// The element type on the wire.
    const DTYPE: DataType;
}

mod sealed {
    use super::Elements;

    pub trait Sealed: Sized {
        fn wrap(elements: Vec<Self>) -> Elements;
        fn slice_of(elements: &Elements) -> Option<&[Self]>;
        fn vec_of(elements: Elements) -> Option<Vec<Self>>;
    }
}

macro_rules! elements {
    ($($variant:ident $type:ty, $dtype:ident;)*) => {
        /// The elements of a tensor.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Elements {
            $($variant(Vec<$type>),)*
        }

        impl Elements {
            fn zeros(dtype: DataType, count: usize) -> Option<Self> {
                match dtype {
                    $(DataType::$dtype => Some(Self::$variant(vec![bytemuck::Zeroable::zeroed(); count])),)*
                    DataType::Unspecified => None,
                }
            }

            fn dtype(&self) -> DataType {
                match self {
                    $(Self::$variant(_) => DataType::$dtype,)*
                }
            }

            fn bytes(&self) -> &[u8] {
                match self {
                    $(Self::$variant(elements) => bytemuck::cast_slice(elements),)*
                }
            }

            fn bytes_mut(&mut self) -> &mut [u8] {
                match self {
                    $(Self::$variant(elements) => bytemuck::cast_slice_mut(elements),)*
                }
            }
        }

        $(
            impl Element for $type {
                const DTYPE: DataType = DataType::$dtype;
            }

            impl sealed::Sealed for $type {
                fn wrap(elements: Vec<Self>) -> Elements {
                    Elements::$variant(elements)
                }

                fn slice_of(elements: &Elements) -> Option<&[Self]> {
                    if let Elements::$variant(elements) = elements { Some(elements) } else { None }
                }

                fn vec_of(elements: Elements) -> Option<Vec<Self>> {
                    if let Elements::$variant(elements) = elements { Some(elements) } else { None }
                }
            }
        )*
    };
}

elements! {
    F16 f16, Float16;
    Bf16 bf16, Bfloat16;
    F32 f32, Float32;
    F64 f64, Float64;
    I32 i32, Int32;
    I64 i64, Int64;
}

/// A dense array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    elements: Elements,
}

impl Tensor {
    /// A tensor of a vector, which is not copied. The shape is empty for a scalar.
    ///
    /// # Panics
    /// If the shape has another number of elements than the vector.
    pub fn new<T: Element>(elements: Vec<T>, shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), elements.len(), "elements of the shape {shape:?}");
        Self { shape: shape.to_vec(), elements: T::wrap(elements) }
    }

    /// A tensor of zeros; `None` if the element type is unspecified.
    pub(crate) fn zeros(dtype: DataType, shape: Vec<usize>) -> Option<Self> {
        let elements = Elements::zeros(dtype, shape.iter().product())?;
        Some(Self { shape, elements })
    }

    /// The element type.
    pub fn dtype(&self) -> DataType {
        self.elements.dtype()
    }

    /// Extent of each dimension, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements; `None` if they have another type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        T::slice_of(&self.elements)
    }

    /// The elements as a vector, which is not copied; `None` if they have another type.
    pub fn into_vec<T: Element>(self) -> Option<Vec<T>> {
        T::vec_of(self.elements)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.elements.bytes_mut()
    }
}

impl AsRef<[u8]> for Tensor {
    fn as_ref(&self) -> &[u8] {
        self.elements.bytes()
    }
}

impl TryFrom<v1::Tensor> for Tensor {
    type Error = Error;

    fn try_from(message: v1::Tensor) -> Result<Self> {
        let malformed = || {
            let (bytes, dtype) = (message.data.len(), message.dtype());
            Error::malformed(format!("has a tensor {dtype:?}{:?} of {bytes} bytes", message.shape))
        };
        let mut tensor = Self::zeros(message.dtype(), shape_of(&message.shape)).ok_or_else(malformed)?;
        let target = tensor.bytes_mut();
        if target.len() != message.data.len() {
            return Err(malformed());
        }
        target.copy_from_slice(&message.data);
        Ok(tensor)
    }
}

/// A dense array that is sent: a view of a slice, or a vector that was moved here.
///
/// Without a shape it has one dimension, or, as a gradient or parameter of a session, the shape that
/// it has there.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    pub(crate) dtype: DataType,
    pub(crate) shape: Option<Vec<usize>>,
    data: Data<'a>,
}

#[derive(Clone, Debug)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
}

impl<'a> TensorView<'a> {
    /// A view of a slice, which is not copied.
    pub fn new<T: Element>(elements: &'a [T]) -> Self {
        Self { dtype: T::DTYPE, shape: None, data: Data::Borrowed(bytemuck::cast_slice(elements)) }
    }

    /// States the shape; empty for a scalar.
    pub fn shape(mut self, shape: &[usize]) -> Self {
        self.shape = Some(shape.to_vec());
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(bytes) => bytes,
        }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.bytes().len() / element_size(self.dtype).max(1)
    }

    /// Whether the elements have the shape.
    pub(crate) fn fits(&self, shape: &[usize]) -> bool {
        self.len() == shape.iter().product::<usize>() && self.shape.as_ref().is_none_or(|own| own == shape)
    }

    /// The same elements in another type.
    pub(crate) fn convert(self, dtype: DataType) -> Self {
        if self.dtype == dtype {
            return self;
        }
        let mut converted = vec![0; self.len() * element_size(dtype)];
        convert(self.bytes(), self.dtype, &mut converted, dtype);
        Self { dtype, shape: self.shape, data: Data::Owned(converted.into()) }
    }

}

impl From<TensorView<'_>> for v1::Tensor {
    fn from(view: TensorView<'_>) -> Self {
        let shape = view.shape.clone().unwrap_or_else(|| vec![view.len()]);
        let data = match view.data {
            Data::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Data::Owned(bytes) => bytes,
        };
        Self { dtype: view.dtype.into(), shape: extents_of(&shape), data }
    }
}

impl From<Tensor> for v1::Tensor {
    fn from(tensor: Tensor) -> Self {
        TensorView::from(tensor).into()
    }
}

impl<'a, T: Element> From<&'a [T]> for TensorView<'a> {
    fn from(elements: &'a [T]) -> Self {
        Self::new(elements)
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for TensorView<'a> {
    fn from(elements: &'a Vec<T>) -> Self {
        Self::new(elements)
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for TensorView<'a> {
    fn from(elements: &'a [T; N]) -> Self {
        Self::new(elements)
    }
}

impl<T: Element> From<Vec<T>> for TensorView<'_> {
    fn from(elements: Vec<T>) -> Self {
        let shape = [elements.len()];
        Self { shape: None, ..Tensor::new(elements, &shape).into() }
    }
}

impl From<Tensor> for TensorView<'_> {
    fn from(tensor: Tensor) -> Self {
        let (dtype, shape) = (tensor.dtype(), Some(tensor.shape.clone()));
        Self { dtype, shape, data: Data::Owned(Bytes::from_owner(tensor)) }
    }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        let (dtype, shape) = (tensor.dtype(), Some(tensor.shape.clone()));
        Self { dtype, shape, data: Data::Borrowed(tensor.as_ref()) }
    }
}

/// A slice that is filled with a tensor.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) dtype: DataType,
    pub(crate) bytes: &'a mut [u8],
}

impl<'a> TensorMut<'a> {
    /// A view of a slice, which is written to.
    pub fn new<T: Element>(elements: &'a mut [T]) -> Self {
        Self { dtype: T::DTYPE, bytes: bytemuck::cast_slice_mut(elements) }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / element_size(self.dtype).max(1)
    }
}

impl<'a, T: Element> From<&'a mut [T]> for TensorMut<'a> {
    fn from(elements: &'a mut [T]) -> Self {
        Self::new(elements)
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for TensorMut<'a> {
    fn from(elements: &'a mut Vec<T>) -> Self {
        Self::new(elements)
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for TensorMut<'a> {
    fn from(elements: &'a mut [T; N]) -> Self {
        Self::new(elements)
    }
}

pub(crate) fn shape_of(extents: &[i64]) -> Vec<usize> {
    extents.iter().map(|&extent| usize::try_from(extent).unwrap_or(0)).collect()
}

pub(crate) fn extents_of(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&extent| extent as i64).collect()
}

/// Bytes of an element; 0 if the type is unspecified.
pub(crate) fn element_size(dtype: DataType) -> usize {
    match dtype {
        DataType::Unspecified => 0,
        DataType::Float16 | DataType::Bfloat16 => 2,
        DataType::Float32 | DataType::Int32 => 4,
        DataType::Float64 | DataType::Int64 => 8,
    }
}

/// Whether numbers of one type can be sent or received as another.
pub(crate) fn is_convertible(from: DataType, to: DataType) -> bool {
    let is_float = |dtype| element_size(dtype) > 0 && !matches!(dtype, DataType::Int32 | DataType::Int64);
    from == to || is_float(from) && is_float(to)
}

/// A floating-point element in memory that need not be aligned.
trait Float: Pod {
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
    fn from_f32(value: f32) -> Self;
}

macro_rules! float {
    ($type:ty, $to_f64:expr, $from_f64:expr, $from_f32:expr) => {
        impl Float for $type {
            fn to_f64(self) -> f64 {
                $to_f64(self)
            }

            fn from_f64(value: f64) -> Self {
                $from_f64(value)
            }

            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
        }
    };
}

float!(f16, f16::to_f64, f16::from_f64, f16::from_f32);
float!(bf16, bf16::to_f64, bf16::from_f64, bf16::from_f32);
float!(f32, f64::from, |value| value as f32, |value| value);
float!(f64, |value| value, |value| value, f64::from);

fn convert_as<S: Float, T: Float>(source: &[u8], target: &mut [u8]) {
    let pairs = source.chunks_exact(size_of::<S>()).zip(target.chunks_exact_mut(size_of::<T>()));
    for (from, to) in pairs {
        let value = bytemuck::pod_read_unaligned::<S>(from).to_f64();
        // Every type but float64 is exact in float32, from which rounding is faster.
        let rounded = if size_of::<S>() < 8 { T::from_f32(value as f32) } else { T::from_f64(value) };
        to.copy_from_slice(bytemuck::bytes_of(&rounded));
    }
}

fn convert_from<S: Float>(source: &[u8], target: &mut [u8], to: DataType) {
    match to {
        DataType::Float16 => convert_as::<S, f16>(source, target),
        DataType::Bfloat16 => convert_as::<S, bf16>(source, target),
        DataType::Float32 => convert_as::<S, f32>(source, target),
        _ => convert_as::<S, f64>(source, target),
    }
}

/// Writes elements of one type as those of another; see [`is_convertible`].
pub(crate) fn convert(source: &[u8], from: DataType, target: &mut [u8], to: DataType) {
    match from {
        _ if from == to => target.copy_from_slice(source),
        DataType::Float16 => convert_from::<f16>(source, target, to),
        DataType::Bfloat16 => convert_from::<bf16>(source, target, to),
        DataType::Float32 => convert_from::<f32>(source, target, to),
        _ => convert_from::<f64>(source, target, to),
    }
}
