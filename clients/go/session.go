package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Session is a handle of a session on a server. Each handle is one worker, and keeps a stream open
// for its steps. Any number of goroutines may use it; their steps are taken one after the other.
type Session struct {
	client *Client
	name   string
	layout layout
	stream *Stream
}

func newSession(c *Client, message *pb.Session) *Session {
	s := &Session{client: c, name: message.GetName(), layout: newLayout(message.GetLayout())}
	s.stream, _ = newStream(s, &StreamOptions{Window: 1}) // only a wrong window is an error
	return s
}

// Name returns the resource name, sessions/{id}.
func (s *Session) Name() string { return s.name }

// Layout returns the session's tensors in the order of their bytes.
func (s *Session) Layout() []*pb.TensorLayout { return s.layout.tensors }

// Step takes one step of any size and waits for its result; see [Stream.Step].
func (s *Session) Step(ctx context.Context, gradients Tensors, options *StepOptions) (*StepResult, error) {
	return s.stream.Step(ctx, gradients, options)
}

// Stream returns a stream for many steps. It connects with the first one. options may be nil.
func (s *Session) Stream(options *StreamOptions) (*Stream, error) {
	return newStream(s, cmp.Or(options, &StreamOptions{}))
}

// Get reads the session's description.
func (s *Session) Get(ctx context.Context) (*pb.Session, error) {
	answer, err := s.client.sessions.GetSession(ctx, pb.GetSessionRequest_builder{Name: s.name}.Build())
	return answer.GetSession(), err
}

// ReadOptions are options of [Session.Pull].
type ReadOptions struct {
	// Pull selects tensors, point and element type; all parameters in their own type if nil.
	Pull *pb.PullOptions
	// Into has tensors that are filled; new ones are made for names that it leaves out. After an
	// error they may hold a part of the values.
	Into Tensors
	// IfNewerThan sends no values unless the session's step is greater.
	IfNewerThan *int64
	// NewerThan waits until the session's step is greater.
	NewerThan *int64
}

// Parameters are values of a session at one step.
type Parameters struct {
	// Tensors by name; nil if the session's step is not greater than IfNewerThan.
	Tensors Tensors
	// Step that they belong to.
	Step int64
}

// Pull reads parameters. options may be nil.
func (s *Session) Pull(ctx context.Context, options *ReadOptions) (*Parameters, error) {
	options = cmp.Or(options, &ReadOptions{})
	if err := s.layout.fillable(options.Into); err != nil {
		return nil, err
	}
	request := pb.PullParametersRequest_builder{
		Name: s.name, Pull: options.Pull, IfNewerThanStep: options.IfNewerThan, NewerThanStep: options.NewerThan,
	}.Build()
	var found *Parameters
	err := s.client.retry(ctx, s.layout.byteCount, func(ctx context.Context) *Error {
		answer := &pb.PullParametersResponse{}
		return receiving(ctx, s.client.sessions.PullParameters, request, answer, func(f *frame, next func(*frame) error) error {
			err := next(f)
			header := answer.GetHeader()
			found = &Parameters{Step: header.GetStep()}
			if err == nil && !header.GetNotModified() {
				found.Tensors, err = receive(header.GetLayout(), options.Into, f, next)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	s.stream.parametersStep.Store(found.Step)
	return found, nil
}

// receiving makes a call with one request and many answers, which next receives in a frame.
func receiving[Q, A any](
	ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error),
	request Q, answer proto.Message, read func(f *frame, next func(*frame) error) error,
) *Error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := method(ctx, request)
	if err != nil {
		return failure(err, nil)
	}
	err = read(&frame{message: answer}, func(f *frame) error {
		err := stream.RecvMsg(f)
		if err != nil && !errors.Is(err, io.EOF) {
			return failure(err, stream.Trailer())
		}
		return err
	})
	if errors.Is(err, io.EOF) {
		err = &Error{Code: codes.Unavailable, Message: "the answer ended early"}
	}
	return failure(err, nil)
}

// sending makes a call with many requests and one answer.
func sending[Q, A any](
	ctx context.Context,
	method func(context.Context, ...grpc.CallOption) (grpc.ClientStreamingClient[Q, A], error),
	requests iter.Seq2[*Q, error],
) (*A, *Error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var trailer metadata.MD
	stream, err := method(ctx, grpc.Trailer(&trailer))
	if err != nil {
		return nil, failure(err, trailer)
	}
	for request, err := range requests {
		if err != nil {
			return nil, failure(err, nil)
		}
		if stream.Send(request) != nil {
			break // what went wrong is the status of the call
		}
	}
	answer, err := stream.CloseAndRecv()
	return answer, failure(err, trailer)
}

// ChangeOption is an option of a change of a session.
type ChangeOption func(sessionChange)

type sessionChange interface {
	SetRequestId(string)
	SetExpectedStep(int64)
}

// ExpectStep rejects the change unless the session is at a step.
func ExpectStep(step int64) ChangeOption { return func(c sessionChange) { c.SetExpectedStep(step) } }

// RequestID names the change, instead of at random, so that another process can repeat it.
func RequestID(id string) ChangeOption { return func(c sessionChange) { c.SetRequestId(id) } }

func apply[C sessionChange](change C, options []ChangeOption) C {
	change.SetRequestId(rand.Text())
	for _, option := range options {
		option(change)
	}
	return change
}

// Push writes parameters: all given ones, or none. resetState initializes their optimizer state.
func (s *Session) Push(
	ctx context.Context, values Tensors, resetState bool, changes ...ChangeOption,
) (*pb.Session, error) {
	names, body, err := s.layout.collect(values, 0)
	if err != nil {
		return nil, err
	}
	header := apply(pb.PushHeader_builder{
		Name: s.name, Tensors: names, ResetState: resetState, ByteCount: uint64(body.byteCount),
	}.Build(), changes)
	var answer *pb.PushParametersResponse
	err = s.client.retry(ctx, body.byteCount, func(ctx context.Context) (e *Error) {
		answer, e = sending(ctx, s.client.sessions.PushParameters, func(yield func(*pb.PushParametersRequest, error) bool) {
			request := pb.PushParametersRequest_builder{Header: header}.Build()
			for chunk := range body.chunks() {
				request.SetChunk(chunk)
				if !yield(request, nil) {
					return
				}
				request = &pb.PushParametersRequest{}
			}
			if request.HasHeader() { // there is no chunk
				yield(request, nil)
			}
		})
		return e
	})
	return answer.GetSession(), err
}

// ReportMetrics reports metrics of the current model, such as the loss on a validation set.
func (s *Session) ReportMetrics(
	ctx context.Context, metrics map[string]float64, changes ...ChangeOption,
) (*pb.ReportMetricsResponse, error) {
	request := apply(pb.ReportMetricsRequest_builder{Name: s.name}.Build(), changes)
	for name, value := range metrics {
		request.SetMetrics(append(request.GetMetrics(), pb.Metric_builder{Name: name, Value: &value}.Build()))
	}
	return s.client.sessions.ReportMetrics(ctx, request)
}

// Update replaces the specification between two steps. The answer says which state was carried over.
func (s *Session) Update(
	ctx context.Context, spec *pb.SessionSpec, changes ...ChangeOption,
) (*pb.UpdateSessionResponse, error) {
	request := apply(pb.UpdateSessionRequest_builder{Name: s.name, Spec: spec}.Build(), changes)
	return s.client.sessions.UpdateSession(ctx, request)
}

// Watch yields the session's events until the session is deleted, the loop ends, or the context
// does. An error ends it.
func (s *Session) Watch(ctx context.Context) iter.Seq2[*pb.WatchSessionResponse, error] {
	return func(yield func(*pb.WatchSessionResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.client.sessions.WatchSession(ctx, pb.WatchSessionRequest_builder{Name: s.name}.Build())
		for err == nil {
			var event *pb.WatchSessionResponse
			if event, err = stream.Recv(); errors.Is(err, io.EOF) || err == nil && !yield(event, nil) {
				return
			}
		}
		var trailer metadata.MD
		if stream != nil {
			trailer = stream.Trailer()
		}
		yield(nil, failure(err, trailer).endedBy(ctx))
	}
}

// Join makes the handle's worker a member of the session: its steps then carry the epoch and the step
// of the parameters that the handle received last. They may wait for other members. A worker that
// joins again takes the place of its earlier incarnation, whose steps are rejected as FENCED.
//
// Every step renews the lease, and so does [Session.Renew]. 0 is the server's default.
func (s *Session) Join(ctx context.Context, lease time.Duration) (joined *pb.JoinSessionResponse, err error) {
	request := pb.JoinSessionRequest_builder{Session: s.name, Worker: s.stream.worker}.Build()
	if lease > 0 {
		request.SetLeaseSeconds(lease.Seconds())
	}
	err = s.stream.exclusively(ctx, 0, func(ctx context.Context) error {
		if joined, err = s.client.workers.JoinSession(ctx, request); err == nil {
			s.stream.drop()
			s.stream.next, s.stream.unknown = joined.GetNextSequence(), 0
			s.stream.epoch.Store(joined.GetEpoch())
			s.stream.parametersStep.Store(joined.GetSession().GetStep())
		}
		return err
	})
	return joined, err
}

// Renew renews the lease of the membership; needed if more than the lease passes between two steps.
func (s *Session) Renew(ctx context.Context) error {
	_, err := s.client.workers.RenewLease(ctx, pb.RenewLeaseRequest_builder{
		Session: s.name, Worker: s.stream.worker, WorkerEpoch: s.stream.epoch.Load(),
	}.Build())
	return err
}

// Leave ends the membership. Later steps are those of no member.
func (s *Session) Leave(ctx context.Context) error {
	_, err := s.client.workers.LeaveSession(ctx, pb.LeaveSessionRequest_builder{
		Session: s.name, Worker: s.stream.worker, WorkerEpoch: s.stream.epoch.Swap(0),
	}.Build())
	return err
}

// Workers lists the members by rank, and then those that were members, by name.
func (s *Session) Workers(ctx context.Context) ([]*pb.Worker, error) {
	answer, err := s.client.workers.ListWorkers(ctx, pb.ListWorkersRequest_builder{Session: s.name}.Build())
	return answer.GetWorkers(), err
}

// Close ends the handle's stream. The session stays on the server.
func (s *Session) Close() error { return s.stream.Close() }

// Delete deletes the session and everything it holds.
func (s *Session) Delete(ctx context.Context) error {
	_ = s.Close() // never fails
	_, err := s.client.sessions.DeleteSession(ctx, pb.DeleteSessionRequest_builder{Name: s.name}.Build())
	return err
}
