package optserve

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// TestHalfValues reads every binary16 number and writes it again.
func TestHalfValues(t *testing.T) {
	for bits := range 1 << 16 {
		value := halfValue(uint16(bits))
		if math.IsNaN(value) {
			if bits&0x7fff <= 0x7c00 {
				t.Fatalf("%#x is read as NaN", bits)
			}
			continue
		}
		if written := halfBits(value); written != uint16(bits) {
			t.Fatalf("%#x is read as %v and written as %#x", bits, value, written)
		}
	}
}

func TestRoundingToSixteenBits(t *testing.T) {
	for _, c := range []struct {
		value        float64
		half, bfloat uint16
	}{
		{1, 0x3c00, 0x3f80},
		{-2, 0xc000, 0xc000},
		{1 + 0x1p-11, 0x3c00, 0x3f80},                 // a tie, to even
		{1 + 3*0x1p-11, 0x3c02, 0x3f80},               // a tie, to even
		{1 + 0x1p-11 + 0x1p-40, 0x3c01, 0x3f80},       // above a tie by less than a float32 shows
		{1 + 0x1p-8, 0x3c04, 0x3f80},                  // a tie of bfloat16
		{1 + 0x1p-8 + 0x1p-40, 0x3c04, 0x3f81},        // above it
		{65519, 0x7bff, 0x4780},                       // rounds down to the largest binary16
		{65520, 0x7c00, 0x4780},                       // rounds up to infinity
		{1e300, 0x7c00, 0x7f7f + 1},                   // too large for both
		{0x1p-24, 0x0001, 0x3380},                     // the smallest subnormal
		{0x1p-25, 0x0000, 0x3300},                     // a tie with 0
		{0x1p-25 + 0x1p-50, 0x0001, 0x3300},           // above it
		{0x1p-14 - 0x1p-25 - 0x1p-40, 0x03ff, 0x3880}, // below the smallest normal
		{math.Inf(-1), 0xfc00, 0xff80},
	} {
		if half, bfloat := halfBits(c.value), bfloatBits(c.value); half != c.half || bfloat != c.bfloat {
			t.Errorf("%v is %#x and %#x, not %#x and %#x", c.value, half, bfloat, c.half, c.bfloat)
		}
	}
	if bits := halfBits(math.NaN()); bits&0x7fff <= 0x7c00 {
		t.Errorf("NaN is %#x", bits)
	}
	if bits := bfloatBits(math.NaN()); bits&0x7fff <= 0x7f80 {
		t.Errorf("NaN is %#x", bits)
	}
}

// TestChunksOfAnySize receives the bytes of tensors in chunks that end within elements.
func TestChunksOfAnySize(t *testing.T) {
	wide, narrow := []float64{1, -2, 3}, []float32{0.5, -0.25, 8, 16}
	var p payload
	for _, tensor := range []Tensor{NewTensor(wide), NewTensor(narrow)} {
		wire := pb.DataType_DATA_TYPE_FLOAT64
		if tensor.DType() != wire {
			wire = pb.DataType_DATA_TYPE_FLOAT16
		}
		if err := p.add("t", tensor, []int{tensor.Len()}, wire); err != nil {
			t.Fatal(err)
		}
	}
	var sent bytes.Buffer
	for chunk := range p.chunks() {
		sent.Write(chunk.GetData())
	}
	layout := []*pb.TensorLayout{
		pb.TensorLayout_builder{Name: "wide", Dtype: pb.DataType_DATA_TYPE_FLOAT64, Shape: []int64{3}}.Build(),
		pb.TensorLayout_builder{Name: "none", Dtype: pb.DataType_DATA_TYPE_FLOAT64, Shape: []int64{0}}.Build(),
		pb.TensorLayout_builder{Name: "narrow", Dtype: pb.DataType_DATA_TYPE_FLOAT16, Shape: []int64{2, 2}}.Build(),
	}
	for size := 1; size <= sent.Len(); size++ {
		offset := 0
		tensors, err := receive(layout, nil, &frame{}, answers(func(f *frame) {
			f.offset, f.data = uint64(offset), sent.Bytes()[offset:min(offset+size, sent.Len())]
			offset += len(f.data)
		}))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range wide {
			if got := Data[float64](tensors["wide"])[i]; got != want {
				t.Fatalf("chunks of %d bytes: wide[%d] is %v", size, i, got)
			}
		}
		for i, want := range narrow {
			if got := Data[float32](tensors["narrow"])[i]; got != want {
				t.Fatalf("chunks of %d bytes: narrow[%d] is %v", size, i, got)
			}
		}
	}
}

// answers fills frames as a stream does.
type answers func(*frame)

func (a answers) RecvMsg(target any) error {
	a(target.(*frame))
	return nil
}

func TestChunksThatAreNotInOrder(t *testing.T) {
	layout := []*pb.TensorLayout{
		pb.TensorLayout_builder{Name: "w", Dtype: pb.DataType_DATA_TYPE_FLOAT32, Shape: []int64{2}}.Build(),
	}
	for _, chunk := range []*pb.Chunk{
		pb.Chunk_builder{ByteOffset: 4, Data: make([]byte, 4)}.Build(),
		pb.Chunk_builder{Data: make([]byte, 9)}.Build(),
		{},
	} {
		f := &frame{offset: chunk.GetByteOffset(), data: chunk.GetData()}
		if _, err := receive(layout, nil, f, answers(func(*frame) {})); err == nil {
			t.Errorf("a chunk of %d bytes at %d was accepted", len(chunk.GetData()), chunk.GetByteOffset())
		}
	}
}

func TestTensorsKnowTheirSlice(t *testing.T) {
	data := []float32{1, 2, 3, 4, 5, 6}
	tensor := NewTensor(data, 2, 3)
	Data[float32](tensor)[4] = 50
	if data[4] != 50 || Data[float64](tensor) != nil || tensor.Len() != 6 || tensor.Shape()[1] != 3 {
		t.Fatalf("the tensor is %v", tensor)
	}
	defer func() {
		if recover() == nil {
			t.Error("a shape of other elements was accepted")
		}
	}()
	NewTensor(data, 4, 2)
}

// TestFrames decodes answers whose chunk is the last field, as the contract has it, and others.
func TestFrames(t *testing.T) {
	chunk := pb.Chunk_builder{ByteOffset: 300, Data: []byte("bytes")}.Build()
	whole, err := proto.Marshal(pb.StepStreamResponse_builder{
		Result: pb.StepResult_builder{Step: 7}.Build(), ParametersStep: 7, Chunk: chunk,
	}.Build())
	if err != nil {
		t.Fatal(err)
	}
	later, err := proto.Marshal(pb.StepStreamResponse_builder{ParametersStep: 8}.Build())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		encoded []byte
		step    int64
		offset  uint64
		data    string
	}{
		"chunk last":      {whole, 7, 300, "bytes"},
		"chunk not last":  {append(slices.Clone(whole), later...), 8, 300, "bytes"},
		"unknown fixed64": {append(slices.Clone(whole), 0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8), 7, 300, "bytes"},
		"no chunk":        {later, 8, 0, ""},
	} {
		answer := &pb.StepStreamResponse{}
		f := &frame{message: answer}
		var pieces mem.BufferSlice
		for part := range slices.Chunk(c.encoded, 3) {
			pieces = append(pieces, mem.SliceBuffer(part))
		}
		if err := newCodec().Unmarshal(pieces, f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if answer.GetParametersStep() != c.step || f.offset != c.offset || string(f.data) != c.data {
			t.Errorf("%s: step %d, %q at %d", name, answer.GetParametersStep(), f.data, f.offset)
		}
	}
	for cut := 1; cut < len(whole); cut++ {
		f := &frame{message: &pb.StepStreamResponse{}}
		err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(whole[:cut])}, f)
		if err == nil && len(f.data) > 0 {
			t.Errorf("the first %d bytes were decoded", cut)
		}
	}
}
