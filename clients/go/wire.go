package optserve

import (
	"bytes"
	"cmp"
	"iter"
	"slices"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const chunkBytes = 1 << 20

// layout is a session's tensors, in the order of their bytes.
type layout []*pb.TensorLayout

func (l layout) byteCount() (sum int) {
	for _, own := range l {
		sum += int(own.GetByteCount())
	}
	return sum
}

// find returns a session's tensor.
func (l layout) find(name string) (*pb.TensorLayout, error) {
	if i := slices.IndexFunc(l, func(own *pb.TensorLayout) bool { return own.GetName() == name }); i >= 0 {
		return l[i], nil
	}
	return nil, rejected(pb.ErrorReason_ERROR_REASON_UNKNOWN_TENSOR, name, "the session has no tensor %q", name)
}

// each calls a function with each of the tensors and the session's, in the order of their bytes.
func (l layout) each(tensors Tensors, on func(name string, tensor Tensor, own *pb.TensorLayout) error) error {
	found := 0
	for _, own := range l {
		if tensor, ok := tensors[own.GetName()]; ok {
			if err := on(own.GetName(), tensor, own); err != nil {
				return err
			}
			found++
		}
	}
	for name := range tensors {
		if found == len(tensors) {
			break
		} else if _, err := l.find(name); err != nil {
			return err
		}
	}
	return nil
}

// check is whether a tensor has a shape (any if nil), or is flat and has its elements, and can be sent,
// or be received, as a tensor of another type.
func check(name string, tensor Tensor, shape []int, to, from pb.DataType) error {
	if shape != nil && tensor.Len() != count(shape) || shape != nil && tensor.shape != nil && !slices.Equal(tensor.shape, shape) {
		return rejected(pb.ErrorReason_ERROR_REASON_SHAPE_MISMATCH, name,
			"%q has the shape %v, but must have %v", name, tensor.Shape(), shape)
	}
	if to != from && (loads[from] == nil || stores[to] == nil) || sizes[to] == 0 {
		return rejected(pb.ErrorReason_ERROR_REASON_DTYPE_MISMATCH, name,
			"elements of %q are %v, which cannot become %v", name, from, to)
	}
	return nil
}

// fillable is whether parameters of the session can be received in tensors.
func (l layout) fillable(into Tensors) error {
	return l.each(into, func(name string, tensor Tensor, own *pb.TensorLayout) error {
		return check(name, tensor, ints(own.GetShape()), tensor.dtype, own.GetDtype())
	})
}

// payload is tensors one after the other, each in its element type on the wire.
type payload struct {
	tensors   []Tensor
	wire      []pb.DataType
	byteCount int
}

// add appends a tensor, which is to have a shape.
func (p *payload) add(name string, tensor Tensor, shape []int, wire pb.DataType) error {
	p.tensors, p.wire = append(p.tensors, tensor), append(p.wire, wire)
	p.byteCount += tensor.Len() * sizes[wire]
	return check(name, tensor, shape, wire, tensor.dtype)
}

// collect makes a payload of tensors of a session, and returns their names in the order of their bytes.
//
// wire is their element type on the wire; each tensor's own in the session if unspecified.
func (l layout) collect(tensors Tensors, wire pb.DataType) (names []string, p payload, err error) {
	err = l.each(tensors, func(name string, tensor Tensor, own *pb.TensorLayout) error {
		names = append(names, name)
		return p.add(name, tensor, ints(own.GetShape()), cmp.Or(wire, own.GetDtype()))
	})
	return names, p, err
}

// chunks yields the bytes in ranges of at most 1 MiB. Large tensors are not copied, unless they are
// converted; of others, a chunk is good until the next one.
func (p payload) chunks() iter.Seq[*pb.Chunk] {
	return func(yield func(*pb.Chunk) bool) {
		var pending []byte
		offset := 0
		send := func(data []byte) bool {
			chunk := pb.Chunk_builder{ByteOffset: uint64(offset), Data: data}.Build()
			offset, pending = offset+len(data), pending[:0]
			return yield(chunk)
		}
		for i, tensor := range p.tensors {
			wire, size, from := p.wire[i], sizes[p.wire[i]], sizes[tensor.dtype]
			for raw := tensor.raw; len(raw) > 0; {
				some := min(len(raw)/from, (chunkBytes-len(pending))/size)
				data, more := raw[:some*from], len(raw) > some*from
				raw = raw[some*from:]
				isLast := !more && i == len(p.tensors)-1
				if wire != tensor.dtype || len(pending) > 0 || !isLast && len(data) < chunkBytes {
					pending = appendAs(pending, wire, data, tensor.dtype)
					data = pending
				}
				if (more || isLast || len(data) == chunkBytes) && !send(data) {
					return
				}
			}
		}
		if len(pending) > 0 { // tensors without elements were the last ones
			send(pending)
		}
	}
}

// receive fills the tensors of into, and new ones for the names that it leaves out, with the chunks
// of an answer: that in the frame, and those of the stream after it.
func receive(layout []*pb.TensorLayout, into Tensors, f *frame, stream receiver) (Tensors, error) {
	tensors, received, data := make(Tensors, len(layout)), uint64(0), []byte(nil)
	more := func() error {
		rest := bytes.Clone(data) // whose buffer is used again
		if f.data == nil {
			if err := receiveFrame(stream, f); err != nil {
				return err
			}
		}
		if f.offset != received || len(f.data) == 0 {
			return malformed("has a chunk of %d bytes at %d, after %d", len(f.data), f.offset, received)
		}
		received, data = received+uint64(len(f.data)), f.data
		if f.data = nil; len(rest) > 0 {
			data = append(rest, data...)
		}
		return nil
	}
	for _, tensor := range layout {
		name, wire, shape := tensor.GetName(), tensor.GetDtype(), ints(tensor.GetShape())
		target, ok := into[name]
		if !ok && sizes[wire] == 2 {
			target = zeros(pb.DataType_DATA_TYPE_FLOAT32, shape) // Go computes in no 16-bit type
		} else if !ok {
			target = zeros(wire, shape)
		}
		if err := check(name, target, shape, target.dtype, wire); err != nil {
			return nil, err
		}
		target.shape, tensors[name] = shape, target
		for room := target.raw; len(room) > 0; {
			if len(data) < sizes[wire] { // nothing, or the beginning of an element
				if err := more(); err != nil {
					return nil, err
				}
			}
			elements := min(len(room)/sizes[target.dtype], len(data)/sizes[wire])
			appendAs(room[:0], target.dtype, data[:elements*sizes[wire]], wire)
			room, data = room[elements*sizes[target.dtype]:], data[elements*sizes[wire]:]
		}
	}
	if len(data) > 0 {
		return nil, malformed("has %d bytes more than its layout", len(data))
	}
	return tensors, nil
}
