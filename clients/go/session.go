package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Session is a handle of a session on a server. Each handle is one worker, and keeps a stream open
// for its steps. Any number of goroutines may use it; their steps are taken one after the other.
//
// Calls that have no method here, such as those for metrics, events and snapshots, are made with
// [Client.Service] and the session's name.
type Session struct {
	client *Client
	name   string
	layout layout
	stream *Stream
}

func newSession(c *Client, message *pb.Session) *Session {
	s := &Session{client: c, name: message.GetName(), layout: message.GetLayout()}
	s.stream, _ = s.Stream(&StreamOptions{Window: 1}) // only a wrong window is an error
	return s
}

// Name returns the resource name, sessions/{id}.
func (s *Session) Name() string { return s.name }

// Layout returns the session's tensors in the order of their bytes.
func (s *Session) Layout() []*pb.TensorLayout { return s.layout }

// Step takes one step of any size and waits for its result; see [Stream.Step].
func (s *Session) Step(ctx context.Context, gradients Tensors, options *StepOptions) (*StepResult, error) {
	return s.stream.Step(ctx, gradients, options)
}

// Parameters are values of a session at one step.
type Parameters struct {
	Tensors Tensors // nil if nothing is newer than the request's if_newer_than_step
	Step    int64
}

// Pull reads parameters into the tensors of into, and into new ones for names that it leaves out; both
// arguments may be nil. The request selects them, or waits for a later step; its name is the session's.
// After an error, into may hold a part of the values.
func (s *Session) Pull(ctx context.Context, request *pb.PullParametersRequest, into Tensors) (*Parameters, error) {
	if err := s.layout.fillable(into); err != nil {
		return nil, err
	}
	request = proto.CloneOf(cmp.Or(request, &pb.PullParametersRequest{}))
	request.SetName(s.name)
	found := &Parameters{}
	err := s.client.retry(ctx, s.layout.byteCount(), func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.client.Service.PullParameters(ctx, request)
		if err != nil {
			return err
		}
		answer := &pb.PullParametersResponse{}
		f := &frame{message: answer}
		if err := receiveFrame(stream, f); err != nil {
			return err
		}
		header := answer.GetHeader()
		found.Step, found.Tensors = header.GetStep(), nil
		if !header.GetNotModified() {
			found.Tensors, err = receive(header.GetLayout(), into, f, stream)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.stream.parametersStep.Store(found.Step)
	return found, nil
}

// Push writes parameters: all given ones, or none. header may be nil; of its fields, reset_state,
// expected_step, wire_dtype and request_id count.
func (s *Session) Push(ctx context.Context, values Tensors, header *pb.PushHeader) (*pb.Session, error) {
	names, body, err := s.layout.collect(values, header.GetWireDtype())
	if err != nil {
		return nil, err
	}
	header = proto.CloneOf(cmp.Or(header, &pb.PushHeader{}))
	header.SetRequestId(cmp.Or(header.GetRequestId(), rand.Text()))
	header.SetName(s.name)
	header.SetTensors(names)
	header.SetByteCount(uint64(body.byteCount))
	var answer *pb.PushParametersResponse
	err = s.client.retry(ctx, body.byteCount, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.client.Service.PushParameters(ctx)
		if err != nil {
			return err
		}
		err = stream.Send(pb.PushParametersRequest_builder{Header: header}.Build())
		for chunk := range body.chunks() {
			if err != nil {
				break // what went wrong is the status of the call
			}
			err = stream.Send(pb.PushParametersRequest_builder{Chunk: chunk}.Build())
		}
		answer, err = stream.CloseAndRecv()
		return err
	})
	return answer.GetSession(), err
}

// Join makes the handle's worker a member of the session: its steps then carry the epoch, and the step
// of the parameters that the handle received last. They may wait for other members. A worker that
// joins again takes the place of its earlier incarnation, whose steps are rejected as FENCED.
//
// A lease of 0 is the server's default. Every step renews it, and so does [Client.Workers].RenewLease.
func (s *Session) Join(ctx context.Context, lease time.Duration) (joined *pb.JoinSessionResponse, err error) {
	request := pb.JoinSessionRequest_builder{Session: s.name, Worker: s.stream.worker}.Build()
	if lease > 0 {
		request.SetLeaseSeconds(lease.Seconds())
	}
	err = s.stream.exclusively(ctx, 0, func(ctx context.Context) error {
		if joined, err = s.client.Workers.JoinSession(ctx, request); err == nil {
			s.stream.drop()
			s.stream.epoch, s.stream.next, s.stream.unknown = joined.GetEpoch(), joined.GetNextSequence(), 0
			s.stream.parametersStep.Store(joined.GetSession().GetStep())
		}
		return err
	})
	return joined, err
}

// Leave ends the membership. Later steps are those of no member.
func (s *Session) Leave(ctx context.Context) error {
	return s.stream.exclusively(ctx, 0, func(ctx context.Context) error {
		request := pb.LeaveSessionRequest_builder{Session: s.name, Worker: s.stream.worker, WorkerEpoch: s.stream.epoch}.Build()
		s.stream.epoch = 0
		_, err := s.client.Workers.LeaveSession(ctx, request)
		return err
	})
}

// Close ends the handle's stream. The session stays on the server.
func (s *Session) Close() error { return s.stream.Close() }

// Delete deletes the session and everything it holds.
func (s *Session) Delete(ctx context.Context) error {
	_ = s.Close() // never fails
	_, err := s.client.Service.DeleteSession(ctx, pb.DeleteSessionRequest_builder{Name: s.name}.Build())
	return err
}
