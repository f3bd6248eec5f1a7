package optserve

import (
	"cmp"
	"io"
	"iter"
	"slices"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const chunkBytes = 1 << 20

// layout is a session's tensors, in the order of their bytes.
type layout struct {
	tensors   []*pb.TensorLayout
	index     map[string]int
	byteCount int
}

func newLayout(tensors []*pb.TensorLayout) layout {
	l := layout{tensors: tensors, index: make(map[string]int, len(tensors))}
	for i, tensor := range tensors {
		l.index[tensor.GetName()] = i
		l.byteCount += int(tensor.GetByteCount())
	}
	return l
}

// find returns a session's tensor.
func (l layout) find(name string) (*pb.TensorLayout, error) {
	i, ok := l.index[name]
	if !ok {
		return nil, rejected(pb.ErrorReason_ERROR_REASON_UNKNOWN_TENSOR, name, "the session has no tensor %q", name)
	}
	return l.tensors[i], nil
}

// sorted returns the names of tensors in the order of their bytes.
func sorted[T any](l layout, tensors map[string]T) ([]string, error) {
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		if _, err := l.find(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return l.index[a] - l.index[b] })
	return names, nil
}

// check is whether a tensor has the shape of the session's, or is flat and has its elements.
func check(name string, tensor Tensor, shape []int) error {
	if tensor.Len() != count(shape) || tensor.shape != nil && !slices.Equal(tensor.shape, shape) {
		return rejected(pb.ErrorReason_ERROR_REASON_SHAPE_MISMATCH, name,
			"%q has the shape %v, but must have %v", name, tensor.Shape(), shape)
	}
	return nil
}

// fillable is whether parameters of the session can be received in tensors.
func (l layout) fillable(into Tensors) error {
	for name, tensor := range into {
		own, err := l.find(name)
		if err == nil && stores[tensor.dtype] == nil {
			err = rejected(pb.ErrorReason_ERROR_REASON_DTYPE_MISMATCH, name,
				"%q cannot be received as %v", name, tensor.dtype)
		}
		if err = cmp.Or(err, check(name, tensor, ints(own.GetShape()))); err != nil {
			return err
		}
	}
	return nil
}

// payload is tensors one after the other, each in its element type on the wire.
type payload struct {
	tensors   []Tensor
	wire      []pb.DataType
	byteCount int
}

// add appends a tensor.
//
// wire is its element type on the wire; its own if unspecified.
func (p *payload) add(name string, tensor Tensor, wire pb.DataType) error {
	if !convertible(wire, tensor.dtype) {
		return rejected(pb.ErrorReason_ERROR_REASON_DTYPE_MISMATCH, name,
			"%q has elements of %v, which cannot be sent as %v", name, tensor.dtype, wire)
	}
	p.tensors, p.wire = append(p.tensors, tensor), append(p.wire, wire)
	p.byteCount += tensor.Len() * sizeOf(wire)
	return nil
}

// collect makes a payload of tensors of a session.
func (l layout) collect(names []string, tensors Tensors, wire pb.DataType) (payload, error) {
	var p payload
	for _, name := range names {
		tensor, own := tensors[name], l.tensors[l.index[name]]
		if err := check(name, tensor, ints(own.GetShape())); err != nil {
			return p, err
		}
		if err := p.add(name, tensor, cmp.Or(wire, own.GetDtype())); err != nil {
			return p, err
		}
	}
	return p, nil
}

// chunks yields the bytes in ranges of at most 1 MiB. Large tensors are not copied; of others, a
// chunk is good until the next one.
//
// buffer holds chunks of more than one tensor; it is returned to be used again.
func (p *payload) chunks(buffer *[]byte) iter.Seq[*pb.Chunk] {
	return func(yield func(*pb.Chunk) bool) {
		offset, pending := 0, (*buffer)[:0]
		defer func() { *buffer = pending[:0] }()
		flush := func(data []byte) bool {
			chunk := pb.Chunk_builder{ByteOffset: uint64(offset), Data: data}.Build()
			offset += len(data)
			return yield(chunk)
		}
		for i, tensor := range p.tensors {
			wire, size, from := p.wire[i], sizeOf(p.wire[i]), sizeOf(tensor.dtype)
			for done := 0; done < tensor.Len(); {
				left := tensor.Len() - done
				if wire == tensor.dtype && len(pending) == 0 && (left*size >= chunkBytes || i == len(p.tensors)-1) {
					some := min(left, chunkBytes/size)
					if !flush(tensor.raw[done*size : (done+some)*size]) {
						return
					}
					done += some
					continue
				}
				some := min(left, (chunkBytes-len(pending))/size)
				if some > 0 {
					start := len(pending)
					pending = slices.Grow(pending, some*size)[:start+some*size]
					convert(pending[start:], wire, tensor.raw[done*from:(done+some)*from], tensor.dtype)
					done += some
				}
				if done < tensor.Len() || len(pending) == chunkBytes {
					if !flush(pending) {
						return
					}
					pending = pending[:0]
				}
			}
		}
		if len(pending) > 0 {
			flush(pending)
		}
	}
}

// reception fills tensors with the chunks of an answer.
type reception struct {
	layout    []*pb.TensorLayout
	tensors   Tensors
	byteCount int
	received  int    // bytes of all
	current   int    // the tensor that is being filled
	filled    int    // bytes of it that were received
	converted []byte // bytes of it that are to be converted
}

// receive begins to fill the tensors of into, and new ones for the names that it leaves out.
func receive(tensors []*pb.TensorLayout, byteCount uint64, into Tensors) (*reception, error) {
	r := &reception{layout: tensors, tensors: make(Tensors, len(tensors)), byteCount: int(byteCount)}
	total := 0
	for _, tensor := range tensors {
		name, wire, shape := tensor.GetName(), tensor.GetDtype(), ints(tensor.GetShape())
		target, ok := into[name]
		if !ok {
			dtype := wire
			if sizeOf(dtype) == 2 {
				dtype = pb.DataType_DATA_TYPE_FLOAT32 // Go computes in no 16-bit type
			}
			target = zeros(dtype, shape)
		} else if err := check(name, target, shape); err != nil {
			return nil, err
		} else if target.shape == nil {
			target.shape = shape
		}
		if !convertible(target.dtype, wire) {
			return nil, rejected(pb.ErrorReason_ERROR_REASON_DTYPE_MISMATCH, name,
				"%q has elements of %v, which cannot hold %v", name, target.dtype, wire)
		}
		r.tensors[name] = target
		total += target.Len() * sizeOf(wire)
	}
	if total != r.byteCount {
		return nil, malformed("has %d bytes of parameters, but their layout has %d", byteCount, total)
	}
	return r, nil
}

// fill takes the chunks of an answer, and those that next receives in the frame.
func (r *reception) fill(f *frame, next func(any) error) error {
	for r.received < r.byteCount {
		if f.data.Remaining() == 0 {
			if err := next(f); err != nil {
				return err
			}
		}
		length := f.data.Remaining()
		if f.offset != r.received || length == 0 || length > r.byteCount-r.received {
			return malformed("has a chunk of %d bytes at %d, but %d of %d bytes were received",
				length, f.offset, r.received, r.byteCount)
		}
		r.add(&f.data, length)
	}
	return nil
}

// add takes the bytes of a chunk.
func (r *reception) add(data io.Reader, length int) {
	for r.received += length; length > 0; {
		wire := r.layout[r.current]
		tensor, size := r.tensors[wire.GetName()], sizeOf(wire.GetDtype())
		some := min(tensor.Len()*size-r.filled, length)
		if tensor.dtype == wire.GetDtype() {
			_, _ = io.ReadFull(data, tensor.raw[r.filled:r.filled+some]) // it has as many
		} else {
			start := len(r.converted) // the beginning of an element
			r.converted = slices.Grow(r.converted, some)[:start+some]
			_, _ = io.ReadFull(data, r.converted[start:])
			whole := (start + some) / size * size
			at := (r.filled - start) / size * sizeOf(tensor.dtype)
			convert(tensor.raw[at:], tensor.dtype, r.converted[:whole], wire.GetDtype())
			r.converted = r.converted[:copy(r.converted, r.converted[whole:])]
		}
		length, r.filled = length-some, r.filled+some
		if r.filled == tensor.Len()*size {
			r.current, r.filled = r.current+1, 0
		}
	}
}
