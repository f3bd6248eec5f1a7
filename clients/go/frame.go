package optserve

import (
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that frames are decoded with
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// frame is an answer whose chunk stays where it was received, so that its bytes are copied once, to
// where the caller wants them.
type frame struct {
	message proto.Message // without its chunk
	offset  uint64        // of the chunk
	data    []byte        // of the chunk, until the next answer; nil if it is used, or there is none
	buffer  []byte
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
	f.buffer = slices.Grow(f.buffer[:0], data.Len())[:data.Len()]
	data.CopyTo(f.buffer)
	chunk := f.message.ProtoReflect().Descriptor().Fields().ByName("chunk").Number()
	var head []byte
	f.offset, f.data = 0, nil
	err := fields(f.buffer, func(number protowire.Number, field, value []byte) error {
		if number != chunk {
			head = append(head, field...)
			return nil
		}
		return fields(value, func(number protowire.Number, _, value []byte) error {
			if number == 1 {
				f.offset, _ = protowire.ConsumeVarint(value)
			} else if number == 2 {
				f.data = value
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return proto.Unmarshal(head, f.message)
}

// fields calls a function with each field of a message, and with its value: without tag and length.
func fields(message []byte, on func(number protowire.Number, field, value []byte) error) error {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeField(message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		field := message[:length]
		value := field[protowire.SizeTag(number):]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(value)
		}
		if err := on(number, field, value); err != nil {
			return err
		}
		message = message[length:]
	}
	return nil
}

// receiver is a stream of answers.
type receiver interface{ RecvMsg(any) error }

// receiveFrame receives the next answer of a stream that has to have another.
func receiveFrame(stream receiver, f *frame) error {
	err := stream.RecvMsg(f)
	if errors.Is(err, io.EOF) {
		return &Error{Code: codes.Unavailable, Message: "the stream ended before its answer"}
	}
	return err
}
