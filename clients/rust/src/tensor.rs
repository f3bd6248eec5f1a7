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
pub type Tensors = BTreeMap<String, Tensor<'static>>;

/// An element of a tensor: [`struct@f16`], [`bf16`], `f32`, `f64`, `i32` or `i64`.
pub trait Element: Pod + Send + Sync {
    /// The element type on the wire.
    const DTYPE: DataType;
}

/// A dense array, row-major: a view of a slice, or elements of its own.
///
/// Without a shape it has one dimension or, as a gradient or parameter of a session, the shape that it has
/// there.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    pub(crate) dtype: DataType,
    pub(crate) shape: Option<Vec<usize>>,
    data: Data<'a>,
}

#[derive(Clone, Debug)]
enum Data<'a> {
    Borrowed(&'a [u8]),
    /// Aligned for every element type.
    Owned(Bytes),
}

impl<'a> Tensor<'a> {
    /// A view of a slice, which is not copied.
    pub fn new<T: Element>(elements: &'a [T]) -> Self {
        Self { dtype: T::DTYPE, shape: None, data: Data::Borrowed(bytemuck::cast_slice(elements)) }
    }

    /// The bytes of a file.
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self { dtype: DataType::Unspecified, shape: None, data: Data::Borrowed(bytes) }
    }

    /// What is sent of a message, without a copy; its elements may not be aligned.
    pub(crate) fn of_message(message: v1::Tensor) -> Self {
        let (dtype, shape) = (message.dtype(), Some(shape_of(&message.shape)));
        Self { dtype, shape, data: Data::Owned(message.data) }
    }

    /// States the shape; empty for a scalar.
    pub fn with_shape(mut self, shape: &[usize]) -> Self {
        self.shape = Some(shape.to_vec());
        self
    }

    /// The element type.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Extent of each dimension, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.shape.clone().unwrap_or_else(|| vec![self.count()])
    }

    /// The elements; `None` if they have another type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::cast_slice(self.bytes()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Borrowed(bytes) => bytes,
            Data::Owned(bytes) => bytes,
        }
    }

    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        self.bytes().len() / element_size(self.dtype)
    }

    /// The same elements in another type.
    pub(crate) fn convert(self, dtype: DataType) -> Self {
        if self.dtype == dtype {
            return self;
        }
        let mut buffer = Buffer::new(dtype, self.shape());
        convert(self.bytes(), self.dtype, buffer.bytes_mut(), dtype);
        buffer.into()
    }
}

/// A tensor that is filled.
pub(crate) struct Buffer {
    pub(crate) dtype: DataType,
    shape: Vec<usize>,
    /// Words, so that every element type is aligned.
    words: Vec<u64>,
}

impl Buffer {
    pub(crate) fn new(dtype: DataType, shape: Vec<usize>) -> Self {
        let byte_count = element_size(dtype) * shape.iter().product::<usize>();
        Self { dtype, shape, words: vec![0; byte_count.div_ceil(8)] }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let byte_count = element_size(self.dtype) * self.shape.iter().product::<usize>();
        &mut bytemuck::cast_slice_mut(&mut self.words)[..byte_count]
    }
}

impl From<Buffer> for Tensor<'_> {
    fn from(buffer: Buffer) -> Self {
        let byte_count = element_size(buffer.dtype) * buffer.shape.iter().product::<usize>();
        let data = Data::Owned(Bytes::from_owner(Owner(buffer.words)).slice(..byte_count));
        Self { dtype: buffer.dtype, shape: Some(buffer.shape), data }
    }
}

struct Owner<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Owner<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The vector is not copied.
impl<T: Element> From<Vec<T>> for Tensor<'_> {
    fn from(elements: Vec<T>) -> Self {
        Self { dtype: T::DTYPE, shape: None, data: Data::Owned(Bytes::from_owner(Owner(elements))) }
    }
}

impl<'a> From<&'a Tensor<'_>> for Tensor<'a> {
    fn from(tensor: &'a Tensor<'_>) -> Self {
        tensor.clone()
    }
}

impl TryFrom<v1::Tensor> for Tensor<'_> {
    type Error = Error;

    fn try_from(message: v1::Tensor) -> Result<Self> {
        let mut buffer = Buffer::new(message.dtype(), shape_of(&message.shape));
        let target = buffer.bytes_mut();
        if target.len() != message.data.len() {
            return Err(Error::malformed("has a tensor whose bytes do not fit its shape"));
        }
        target.copy_from_slice(&message.data);
        Ok(buffer.into())
    }
}

impl From<Tensor<'_>> for v1::Tensor {
    fn from(tensor: Tensor<'_>) -> Self {
        let shape = tensor.shape().into_iter().map(|extent| extent as i64).collect();
        let data = match tensor.data {
            Data::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Data::Owned(bytes) => bytes,
        };
        Self { dtype: tensor.dtype.into(), shape, data }
    }
}

/// A slice that is filled with a tensor.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) dtype: DataType,
    pub(crate) bytes: &'a mut [u8],
}

macro_rules! views {
    ([$($generics:tt)*] $slice:ty) => {
        impl<'a, $($generics)*> From<&'a $slice> for Tensor<'a> {
            fn from(elements: &'a $slice) -> Self {
                Self::new(elements)
            }
        }

        impl<'a, $($generics)*> From<&'a mut $slice> for TensorMut<'a> {
            fn from(elements: &'a mut $slice) -> Self {
                Self { dtype: T::DTYPE, bytes: bytemuck::cast_slice_mut(elements) }
            }
        }
    };
}

views!([T: Element] [T]);
views!([T: Element] Vec<T>);
views!([T: Element, const N: usize] [T; N]);

pub(crate) fn shape_of(extents: &[i64]) -> Vec<usize> {
    extents.iter().map(|&extent| usize::try_from(extent).unwrap_or(0)).collect()
}

macro_rules! elements {
    ($($type:ty, $dtype:ident, $load:expr, $store:expr;)*) => {
        $(
            impl Element for $type {
                const DTYPE: DataType = DataType::$dtype;
            }
        )*

        /// Bytes of an element; 1 if the type is unspecified, as of a file.
        pub(crate) fn element_size(dtype: DataType) -> usize {
            match dtype {
                $(DataType::$dtype => size_of::<$type>(),)*
                DataType::Unspecified => 1,
            }
        }

        /// Reads one element, which need not be aligned.
        fn load(bytes: &[u8], dtype: DataType) -> f64 {
            match dtype {
                $(DataType::$dtype => $load(bytemuck::pod_read_unaligned::<$type>(bytes)),)*
                DataType::Unspecified => f64::NAN,
            }
        }

        fn store(value: f64, bytes: &mut [u8], dtype: DataType) {
            match dtype {
                $(DataType::$dtype => bytes.copy_from_slice(bytemuck::bytes_of::<$type>(&$store(value))),)*
                DataType::Unspecified => {}
            }
        }
    };
}

elements! {
    f16, Float16, f64::from, f16::from_f64;
    bf16, Bfloat16, f64::from, bf16::from_f64;
    f32, Float32, f64::from, |value| value as f32;
    f64, Float64, |value| value, |value| value;
    i32, Int32, f64::from, |value| value as i32;
    i64, Int64, |value| value as f64, |value| value as i64;
}

/// Whether numbers of one type can be sent or received as another.
pub(crate) fn is_convertible(from: DataType, to: DataType) -> bool {
    let is_float = |dtype| !matches!(dtype, DataType::Int32 | DataType::Int64 | DataType::Unspecified);
    from == to || is_float(from) && is_float(to)
}

/// Writes elements of one type as those of another; see [`is_convertible`].
pub(crate) fn convert(source: &[u8], from: DataType, target: &mut [u8], to: DataType) {
    let elements = source.chunks_exact(element_size(from)).zip(target.chunks_exact_mut(element_size(to)));
    elements.for_each(|(bytes, target)| store(load(bytes, from), target, to));
}
