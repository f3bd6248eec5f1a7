package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Export writes a session, or one of its snapshots, as a safetensors file. It returns the step in the
// file. After an error, a part of the file may have been written. Only the context bounds it.
//
// name is sessions/{id} or sessions/{id}/snapshots/{step}.
func (c *Client) Export(ctx context.Context, name string, file io.Writer) (step int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Service.ExportSnapshot(ctx, pb.ExportSnapshotRequest_builder{Name: name}.Build())
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

// Import creates a session from a file that [Client.Export] wrote, on any server.
//
// request names the new session, and the request; of its fields, session_id and request_id count. It may
// be nil.
func (c *Client) Import(ctx context.Context, file io.ReadSeeker, request *pb.ImportHeader) (*Session, error) {
	length, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	header := pb.ImportHeader_builder{
		SessionId: request.GetSessionId(), RequestId: cmp.Or(request.GetRequestId(), rand.Text()), ByteCount: uint64(length),
	}.Build()
	var answer *pb.ImportSnapshotResponse
	err = c.retry(ctx, int(length), func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := c.Service.ImportSnapshot(ctx)
		if err != nil {
			return err
		}
		if err := send(stream, file, header); err != nil {
			return &Error{Code: codes.Aborted, Message: "the file cannot be read: " + err.Error(), cause: err}
		}
		answer, err = stream.CloseAndRecv()
		return err
	})
	if err != nil {
		return nil, err
	}
	return newSession(c, answer.GetSession()), nil
}

// send sends a file from its beginning, until the call has ended; its errors are those of the file.
func send(stream pb.SessionService_ImportSnapshotClient, file io.ReadSeeker, header *pb.ImportHeader) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	request := pb.ImportSnapshotRequest_builder{Header: header}.Build()
	buffer := make([]byte, chunkBytes)
	for offset := uint64(0); stream.Send(request) == nil && offset < header.GetByteCount(); {
		some := buffer[:min(chunkBytes, header.GetByteCount()-offset)]
		if _, err := io.ReadFull(file, some); err != nil {
			return err
		}
		chunk := pb.Chunk_builder{ByteOffset: offset, Data: some}.Build()
		request = pb.ImportSnapshotRequest_builder{Chunk: chunk}.Build()
		offset += uint64(len(some))
	}
	return nil
}
