package optserve

import (
	"encoding/binary"
	"io"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that frames are decoded with
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// frame is an answer whose chunk stays where it was received, so that its bytes are copied once, to
// where the caller wants them.
type frame struct {
	message proto.Message // without its chunk
	offset  int           // of the chunk
	data    mem.Reader    // what is not read yet of the chunk
}

// codec is gRPC's own, which can decode frames too.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Unmarshal decodes a message or a frame.
func (c codec) Unmarshal(data mem.BufferSlice, target any) error {
	f, ok := target.(*frame)
	if !ok {
		return c.CodecV2.Unmarshal(data, target)
	}
	f.data.Reset(data)
	if head, ok := f.split(); ok {
		return proto.Unmarshal(head, f.message)
	}
	// The chunk is not the last field, as the contract has it, or there is a field of a new kind.
	err := c.CodecV2.Unmarshal(data, f.message)
	chunk := f.message.(interface{ GetChunk() *pb.Chunk }).GetChunk()
	f.offset = int(chunk.GetByteOffset())
	f.data.Reset(mem.BufferSlice{mem.SliceBuffer(chunk.GetData())})
	return err
}

// split reads up to the bytes of the chunk, and returns the message before it.
func (f *frame) split() (head []byte, ok bool) {
	chunk := f.message.ProtoReflect().Descriptor().Fields().ByName("chunk").Number()
	f.offset = 0
	for f.data.Remaining() > 0 {
		tag, value, err := f.field()
		number, kind := protowire.DecodeTag(tag)
		switch {
		case err != nil || kind == protowire.BytesType && value > uint64(f.data.Remaining()):
			return nil, false
		case number == chunk && kind == protowire.BytesType:
			return head, value == uint64(f.data.Remaining()) && f.chunk()
		case kind == protowire.BytesType:
			head = protowire.AppendVarint(protowire.AppendVarint(head, tag), value)
			start := len(head)
			head = append(head, make([]byte, value)...)
			_, _ = io.ReadFull(&f.data, head[start:]) // it has as many
		case kind == protowire.VarintType:
			head = protowire.AppendVarint(protowire.AppendVarint(head, tag), value)
		default:
			return nil, false
		}
	}
	return head, true
}

// chunk reads the chunk up to its bytes, which are to be the last field.
func (f *frame) chunk() bool {
	for f.data.Remaining() > 0 {
		tag, value, err := f.field()
		switch {
		case err == nil && tag == protowire.EncodeTag(1, protowire.VarintType):
			f.offset = int(value)
		default:
			last := tag == protowire.EncodeTag(2, protowire.BytesType) && value == uint64(f.data.Remaining())
			return err == nil && last
		}
	}
	return true
}

// field reads a tag, and the number behind it: a value, or the length of one.
func (f *frame) field() (tag, value uint64, err error) {
	if tag, err = binary.ReadUvarint(&f.data); err == nil {
		value, err = binary.ReadUvarint(&f.data)
	}
	return tag, value, err
}
