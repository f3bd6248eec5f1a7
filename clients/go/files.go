// Package snapshots writes sessions into safetensors files, and makes sessions of them.
package snapshots

import (
	"context"
	"errors"
	"io"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const chunkBytes = 1 << 20

// Export writes a session, or one of its snapshots, as a safetensors file. It returns the step in the
// file. After an error, a part of the file may have been written. Only the context bounds it.
//
// name is sessions/{id} or sessions/{id}/snapshots/{step}.
func Export(ctx context.Context, client *optserve.Client, name string, file io.Writer) (step int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Service.ExportSnapshot(ctx, pb.ExportSnapshotRequest_builder{Name: name}.Build())
	if err != nil {
		return 0, err
	}
	var left uint64
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) && left > 0 {
			return 0, io.ErrUnexpectedEOF
		} else if errors.Is(err, io.EOF) {
			return step, nil
		} else if err != nil {
			return 0, err
		}
		if header := answer.GetHeader(); header != nil {
			step, left = header.GetStep(), header.GetByteCount()
		}
		data := answer.GetChunk().GetData()
		if _, err := file.Write(data); err != nil {
			return 0, err
		}
		left -= uint64(len(data))
	}
}

// Import creates a session from a file that [Export] wrote, on any server.
//
// request names the new session, and the request; of its fields, session_id and request_id count. If the
// call is lost, the same one with the same request_id creates no second session. It may be nil.
func Import(
	ctx context.Context, client *optserve.Client, file io.ReadSeeker, request *pb.ImportHeader,
) (*optserve.Session, error) {
	length, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Service.ImportSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	header := pb.ImportHeader_builder{
		SessionId: request.GetSessionId(), RequestId: request.GetRequestId(), ByteCount: uint64(length),
	}.Build()
	err = stream.Send(pb.ImportSnapshotRequest_builder{Header: header}.Build())
	buffer := make([]byte, min(chunkBytes, length))
	for offset := int64(0); err == nil && offset < length; {
		some, failed := io.ReadFull(file, buffer[:min(chunkBytes, length-offset)])
		if failed != nil {
			return nil, failed
		}
		chunk := pb.Chunk_builder{ByteOffset: uint64(offset), Data: buffer[:some]}.Build()
		err = stream.Send(pb.ImportSnapshotRequest_builder{Chunk: chunk}.Build())
		offset += int64(some)
	}
	answer, err := stream.CloseAndRecv() // of which a failed Send is the reason
	if err != nil {
		return nil, err
	}
	return client.Session(ctx, answer.GetSession().GetName())
}
