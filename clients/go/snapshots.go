package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// CreateSnapshot saves the session on the server's disk, until the snapshot or the session is deleted.
func (s *Session) CreateSnapshot(ctx context.Context) (*pb.Snapshot, error) {
	answer, err := s.client.sessions.CreateSnapshot(ctx, pb.CreateSnapshotRequest_builder{Name: s.name}.Build())
	return answer.GetSnapshot(), err
}

// ListSnapshots lists the session's snapshots, the latest first.
func (s *Session) ListSnapshots(ctx context.Context) ([]*pb.Snapshot, error) {
	answer, err := s.client.sessions.ListSnapshots(ctx, pb.ListSnapshotsRequest_builder{Name: s.name}.Build())
	return answer.GetSnapshots(), err
}

// DeleteSnapshot deletes a snapshot.
func (s *Session) DeleteSnapshot(ctx context.Context, snapshot *pb.Snapshot) error {
	_, err := s.client.sessions.DeleteSnapshot(ctx, pb.DeleteSnapshotRequest_builder{Name: snapshot.GetName()}.Build())
	return err
}

// RestoreSnapshot restores the session from one of its snapshots: all of it, or its parameters alone.
func (s *Session) RestoreSnapshot(
	ctx context.Context, snapshot *pb.Snapshot, weightsOnly bool, changes ...ChangeOption,
) (*pb.Session, error) {
	request := pb.RestoreSnapshotRequest_builder{Name: snapshot.GetName(), WeightsOnly: weightsOnly}.Build()
	answer, err := s.client.sessions.RestoreSnapshot(ctx, apply(request, changes))
	return answer.GetSession(), err
}

// Fork creates a copy of a snapshot, or of the session if it is nil. id is the last part of the
// copy's name; chosen by the server if empty.
func (s *Session) Fork(ctx context.Context, snapshot *pb.Snapshot, id string) (*Session, error) {
	request := pb.ForkSessionRequest_builder{Name: cmp.Or(snapshot.GetName(), s.name), SessionId: id}.Build()
	answer, err := s.client.sessions.ForkSession(ctx, request)
	if err != nil {
		return nil, err
	}
	return newSession(s.client, answer.GetSession()), nil
}

// Export writes a snapshot, or the session if it is nil, as a safetensors file. It returns the step
// in the file. After an error, a part of the file may have been written. Only the context bounds it,
// because only the server knows the length.
func (s *Session) Export(ctx context.Context, snapshot *pb.Snapshot, file io.Writer) (step int64, err error) {
	request := pb.ExportSnapshotRequest_builder{Name: cmp.Or(snapshot.GetName(), s.name)}.Build()
	answer := &pb.ExportSnapshotResponse{}
	e := receiving(ctx, s.client.sessions.ExportSnapshot, request, answer, func(f *frame, next func(*frame) error) error {
		err := next(f)
		step = answer.GetHeader().GetStep()
		for left := int(answer.GetHeader().GetByteCount()); err == nil && left > 0; err = next(f) {
			written, err := file.Write(f.data)
			if left -= written; err != nil || left <= 0 {
				return err
			}
		}
		return err
	})
	if e != nil {
		return 0, e.endedBy(ctx)
	}
	return step, nil
}

// ImportSession creates a session from a file that [Session.Export] wrote, on any server. id is the
// last part of its name; chosen by the server if empty.
func (c *Client) ImportSession(ctx context.Context, file io.ReadSeeker, id string) (*Session, error) {
	length, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	header := pb.ImportHeader_builder{RequestId: rand.Text(), SessionId: id, ByteCount: uint64(length)}.Build()
	var answer *pb.ImportSnapshotResponse
	err = c.retry(ctx, int(length), func(ctx context.Context) (e *Error) {
		answer, e = sending(ctx, c.sessions.ImportSnapshot, func(yield func(*pb.ImportSnapshotRequest, error) bool) {
			if _, err := file.Seek(0, io.SeekStart); err != nil {
				yield(nil, err)
				return
			}
			more := yield(pb.ImportSnapshotRequest_builder{Header: header}.Build(), nil)
			buffer := make([]byte, min(chunkBytes, length))
			for offset := int64(0); more && offset < length; {
				some, err := io.ReadFull(file, buffer[:min(chunkBytes, length-offset)])
				chunk := pb.Chunk_builder{ByteOffset: uint64(offset), Data: buffer[:some]}.Build()
				more = yield(pb.ImportSnapshotRequest_builder{Chunk: chunk}.Build(), err)
				offset += int64(some)
			}
		})
		return e
	})
	if err != nil {
		return nil, err
	}
	return newSession(c, answer.GetSession()), nil
}
