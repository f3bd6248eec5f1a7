package optserve

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Float16 is an IEEE 754 binary16 number as its bits.
type Float16 uint16

// BFloat16 is a bfloat16 number as its bits: the upper half of a float32.
type BFloat16 uint16

// Element is an element of a tensor.
type Element interface {
	float32 | float64 | int32 | int64 | Float16 | BFloat16
}

// Tensor is a view of a slice as a dense array, row-major. The slice is not copied: it must not
// change while a call uses the tensor, and a call that fills the tensor writes to it.
type Tensor struct {
	dtype pb.DataType
	shape []int  // nil: one dimension, or that of the session's tensor
	raw   []byte // the elements in memory
}

// Tensors are tensors by name.
type Tensors map[string]Tensor

// NewTensor returns a tensor of a slice. Without a shape it has one dimension, or, as the gradient
// or parameters of a session, the shape that they have there.
//
// It panics if the shape has another number of elements than the slice.
func NewTensor[T Element](data []T, shape ...int) Tensor {
	if shape != nil && count(shape) != len(data) {
		panic(fmt.Sprintf("optserve: %d elements do not have the shape %v", len(data), shape))
	}
	size := int(unsafe.Sizeof(*new(T)))
	// The bytes of numbers, for as long as the slice lives: the view keeps it alive. Elements are
	// copied and sent as bytes, so that those of a large slice need not be encoded one by one.
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), size*len(data))
	return Tensor{dtype: dtypeOf[T](), shape: slices.Clone(shape), raw: raw}
}

// Scalar returns a tensor without dimensions.
func Scalar[T Element](value T) Tensor {
	tensor := NewTensor([]T{value})
	tensor.shape = []int{}
	return tensor
}

// Data returns the slice of a tensor; nil if its elements have another type.
func Data[T Element](t Tensor) []T {
	if t.dtype != dtypeOf[T]() {
		return nil
	}
	// The bytes are those of a []T, see NewTensor, so they are aligned.
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(t.raw))), t.Len())
}

// DType returns the element type.
func (t Tensor) DType() pb.DataType { return t.dtype }

// Shape returns the extent of each dimension, outermost first.
func (t Tensor) Shape() []int {
	if t.shape == nil {
		return []int{t.Len()}
	}
	return t.shape
}

// Len returns the number of elements.
func (t Tensor) Len() int {
	if t.raw == nil {
		return 0
	}
	return len(t.raw) / sizes[t.dtype]
}

// Message returns the tensor in the contract's form, which shares its memory.
func (t Tensor) Message() *pb.Tensor {
	if t.dtype == pb.DataType_DATA_TYPE_UNSPECIFIED {
		return nil
	}
	message := pb.Tensor_builder{Dtype: t.dtype, Data: t.raw}.Build()
	for _, extent := range t.Shape() {
		message.SetShape(append(message.GetShape(), int64(extent)))
	}
	return message
}

// FromMessage returns a copy of a tensor in the contract's form.
func FromMessage(message *pb.Tensor) (Tensor, error) {
	shape := ints(message.GetShape())
	size := sizes[message.GetDtype()]
	if size == 0 || len(message.GetData()) != size*count(shape) {
		return Tensor{}, malformed("has a tensor %v of %d bytes and element type %v",
			shape, len(message.GetData()), message.GetDtype())
	}
	tensor := zeros(message.GetDtype(), shape)
	copy(tensor.raw, message.GetData())
	return tensor, nil
}

// zeros returns a new tensor.
func zeros(dtype pb.DataType, shape []int) Tensor {
	words := NewTensor(make([]int64, (count(shape)*sizes[dtype]+7)/8)) // aligned for every type
	return Tensor{dtype: dtype, shape: shape, raw: words.raw[:count(shape)*sizes[dtype]]}
}

// dtypeOf returns the element type, whose name is that of the Go type.
func dtypeOf[T Element]() pb.DataType {
	return pb.DataType(pb.DataType_value["DATA_TYPE_"+strings.ToUpper(reflect.TypeFor[T]().Name())])
}

// sizes are the bytes of an element by type; 0 if the type is not known.
var sizes = map[pb.DataType]int{
	pb.DataType_DATA_TYPE_FLOAT16: 2, pb.DataType_DATA_TYPE_BFLOAT16: 2,
	pb.DataType_DATA_TYPE_FLOAT32: 4, pb.DataType_DATA_TYPE_INT32: 4,
	pb.DataType_DATA_TYPE_FLOAT64: 8, pb.DataType_DATA_TYPE_INT64: 8,
}

func count(shape []int) int {
	product := 1
	for _, extent := range shape {
		product *= extent
	}
	return product
}

// ints returns a shape of the contract.
func ints(extents []int64) []int {
	shape := make([]int, len(extents))
	for i, extent := range extents {
		shape[i] = int(extent)
	}
	return shape
}

// appendAs appends elements of one type as those of another. Both are little-endian, as on the wire
// and, see Connect, in memory.
func appendAs(target []byte, to pb.DataType, source []byte, from pb.DataType) []byte {
	if to == from {
		return append(target, source...)
	}
	load, store := loads[from], stores[to]
	for size := sizes[from]; len(source) >= size; source = source[size:] {
		target = store(target, load(source))
	}
	return target
}

var order = binary.LittleEndian

var loads = map[pb.DataType]func([]byte) float64{
	pb.DataType_DATA_TYPE_FLOAT64:  func(b []byte) float64 { return math.Float64frombits(order.Uint64(b)) },
	pb.DataType_DATA_TYPE_FLOAT32:  func(b []byte) float64 { return float64(math.Float32frombits(order.Uint32(b))) },
	pb.DataType_DATA_TYPE_BFLOAT16: func(b []byte) float64 { return float64(math.Float32frombits(uint32(order.Uint16(b)) << 16)) },
	pb.DataType_DATA_TYPE_FLOAT16:  func(b []byte) float64 { return halfValue(order.Uint16(b)) },
}

var stores = map[pb.DataType]func([]byte, float64) []byte{
	pb.DataType_DATA_TYPE_FLOAT64:  func(b []byte, x float64) []byte { return order.AppendUint64(b, math.Float64bits(x)) },
	pb.DataType_DATA_TYPE_FLOAT32:  func(b []byte, x float64) []byte { return order.AppendUint32(b, math.Float32bits(float32(x))) },
	pb.DataType_DATA_TYPE_BFLOAT16: func(b []byte, x float64) []byte { return order.AppendUint16(b, bfloatBits(x)) },
	pb.DataType_DATA_TYPE_FLOAT16:  func(b []byte, x float64) []byte { return order.AppendUint16(b, halfBits(x)) },
}

// oddBits returns the bits of a float32 next to x, whose last bit is set unless it is exact, so
// that rounding it once more rounds x correctly (round to odd).
func oddBits(x float64) uint32 {
	y := float32(x)
	bits := math.Float32bits(y)
	if float64(y) == x || math.IsNaN(x) {
		return bits
	}
	if math.Abs(float64(y)) > math.Abs(x) {
		bits--
	}
	return bits | 1
}

// bfloatBits rounds to the nearest bfloat16, ties to even.
func bfloatBits(x float64) uint16 {
	bits := oddBits(x)
	if math.IsNaN(x) {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// halfBits rounds to the nearest binary16, ties to even. Divided by 2^112, the difference of the
// exponents' biases, the upper bits of a binary32 are those of a binary16, subnormal ones too.
func halfBits(x float64) uint16 {
	sign := uint16(math.Float64bits(x) >> 48 & 0x8000)
	if math.IsNaN(x) {
		return sign | 0x7e00
	}
	bits := oddBits(math.Abs(x) * 0x1p-112)
	return sign | uint16(min((bits+0xfff+bits>>13&1)>>13, 0x7c00))
}

// halfValue returns the value of a binary16: its bits in the place of a binary32's, and the
// difference of the exponents' biases.
func halfValue(bits uint16) float64 {
	value := float64(math.Float32frombits(uint32(bits&0x7fff)<<13)) * 0x1p112
	if value >= 65536 {
		value = float64(math.Float32frombits(0x7f800000 | uint32(bits&0x3ff)<<13))
	}
	return math.Copysign(value, float64(int16(bits)))
}
