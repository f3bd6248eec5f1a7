package optserve

import (
	"cmp"
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
	filled    int    // elements of it
	rest      []byte // the beginning of an element whose end is in the next chunk
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

// fill takes the chunks of an answer. chunk is that of the first message; nil if it has none.
func (r *reception) fill(chunk *pb.Chunk, next func() (*pb.Chunk, error)) (err error) {
	for r.received < r.byteCount {
		if chunk == nil {
			if chunk, err = next(); err != nil {
				return err
			}
		}
		if err := r.add(chunk); err != nil {
			return err
		}
		chunk = nil
	}
	return nil
}

// add takes the next chunk.
func (r *reception) add(chunk *pb.Chunk) error {
	data := chunk.GetData()
	if int(chunk.GetByteOffset()) != r.received || len(data) == 0 || len(data) > r.byteCount-r.received {
		return malformed("has a chunk of %d bytes at %d, but %d of %d bytes were received",
			len(data), chunk.GetByteOffset(), r.received, r.byteCount)
	}
	r.received += len(data)
	if len(r.rest) > 0 {
		data = append(r.rest, data...)
		r.rest = nil
	}
	for len(data) > 0 {
		wire := r.layout[r.current]
		tensor, size := r.tensors[wire.GetName()], sizeOf(wire.GetDtype())
		some := min(tensor.Len()-r.filled, len(data)/size)
		at := r.filled * sizeOf(tensor.dtype)
		convert(tensor.raw[at:at+some*sizeOf(tensor.dtype)], tensor.dtype, data[:some*size], wire.GetDtype())
		data, r.filled = data[some*size:], r.filled+some
		switch {
		case r.filled == tensor.Len():
			r.current, r.filled = r.current+1, 0
		case len(data) < size:
			r.rest, data = slices.Clone(data), nil
		}
	}
	return nil
}
