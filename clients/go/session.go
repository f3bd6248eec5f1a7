package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

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
	answer, err := call(ctx, s.client, s.client.sessions.GetSession, pb.GetSessionRequest_builder{Name: s.name}.Build())
	return answer.GetSession(), err
}

// ReadOptions are options of [Session.Pull].
type ReadOptions struct {
	// Pull selects tensors, point and element type; all parameters in their own type if nil.
	Pull *pb.PullOptions
	// Into has tensors that are filled; new ones are made for names that it leaves out. After an
	// error they may hold a part of the values.
	Into Tensors
	// NewerThan sends no values unless the session's step is greater.
	NewerThan *int64
}

// Parameters are values of a session at one step.
type Parameters struct {
	// Tensors by name; nil if the session's step is not greater than NewerThan.
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
		Name: s.name, Pull: options.Pull, IfNewerThanStep: options.NewerThan,
	}.Build()
	var found *Parameters
	err := s.client.retry(ctx, s.layout.byteCount, func(ctx context.Context) *Error {
		return receiving(ctx, s.client.sessions.PullParameters, request, func(next func(any) error) error {
			answer := &pb.PullParametersResponse{}
			f := &frame{message: answer}
			if err := next(f); err != nil {
				return err
			}
			header := answer.GetHeader()
			found = &Parameters{Step: header.GetStep()}
			if header.GetNotModified() {
				return nil
			}
			r, err := receive(header.GetLayout(), header.GetByteCount(), options.Into)
			if err != nil {
				return err
			}
			found.Tensors = r.tensors
			return r.fill(f, next)
		})
	})
	return found, err
}

// receiving makes a call with one request and many answers, which next decodes into a target.
func receiving[Q, A any](
	ctx context.Context,
	method func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error),
	request Q,
	read func(next func(target any) error) error,
) *Error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := method(ctx, request)
	if err != nil {
		return failure(err, nil)
	}
	err = read(func(target any) error {
		err := stream.RecvMsg(target)
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
type ChangeOption func(change)

// change is a request that changes a session.
type change interface {
	SetRequestId(string)
	SetExpectedStep(int64)
}

// ExpectStep rejects the change unless the session is at a step.
func ExpectStep(step int64) ChangeOption { return func(c change) { c.SetExpectedStep(step) } }

// RequestID names the change, instead of at random, so that another process can repeat it.
func RequestID(id string) ChangeOption { return func(c change) { c.SetRequestId(id) } }

func apply(c change, options []ChangeOption) {
	c.SetRequestId(rand.Text())
	for _, option := range options {
		option(c)
	}
}

// Push writes parameters: all given ones, or none. resetState initializes their optimizer state.
func (s *Session) Push(
	ctx context.Context, values Tensors, resetState bool, changes ...ChangeOption,
) (*pb.Session, error) {
	names, err := sorted(s.layout, values)
	if err != nil {
		return nil, err
	}
	body, err := s.layout.collect(names, values, 0)
	if err != nil {
		return nil, err
	}
	header := pb.PushHeader_builder{
		Name: s.name, Tensors: names, ResetState: resetState, ByteCount: uint64(body.byteCount),
	}.Build()
	apply(header, changes)
	var answer *pb.PushParametersResponse
	err = s.client.retry(ctx, body.byteCount, func(ctx context.Context) (e *Error) {
		answer, e = sending(ctx, s.client.sessions.PushParameters, func(yield func(*pb.PushParametersRequest, error) bool) {
			if !yield(pb.PushParametersRequest_builder{Header: header}.Build(), nil) {
				return
			}
			var buffer []byte
			for chunk := range body.chunks(&buffer) {
				if !yield(pb.PushParametersRequest_builder{Chunk: chunk}.Build(), nil) {
					return
				}
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
	request := pb.ReportMetricsRequest_builder{Name: s.name}.Build()
	for name, value := range metrics {
		request.SetMetrics(append(request.GetMetrics(), pb.Metric_builder{Name: name, Value: &value}.Build()))
	}
	apply(request, changes)
	return call(ctx, s.client, s.client.sessions.ReportMetrics, request)
}

// Update replaces the specification between two steps. The answer says which state was carried over.
func (s *Session) Update(
	ctx context.Context, spec *pb.SessionSpec, changes ...ChangeOption,
) (*pb.UpdateSessionResponse, error) {
	request := pb.UpdateSessionRequest_builder{Name: s.name, Spec: spec}.Build()
	apply(request, changes)
	return call(ctx, s.client, s.client.sessions.UpdateSession, request)
}

// Watch yields the session's events until the session is deleted, the loop ends, or the context
// does. An error ends it.
func (s *Session) Watch(ctx context.Context) iter.Seq2[*pb.WatchSessionResponse, error] {
	request := pb.WatchSessionRequest_builder{Name: s.name}.Build()
	return func(yield func(*pb.WatchSessionResponse, error) bool) {
		stopped := false
		e := receiving(ctx, s.client.sessions.WatchSession, request, func(next func(any) error) error {
			for !stopped {
				event := &pb.WatchSessionResponse{}
				if err := next(event); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				stopped = !yield(event, nil)
			}
			return nil
		})
		if e != nil {
			yield(nil, e.endedBy(ctx))
		}
	}
}

// Close ends the handle's stream. The session stays on the server.
func (s *Session) Close() error { return s.stream.Close() }

// Delete deletes the session and everything it holds.
func (s *Session) Delete(ctx context.Context) error {
	_ = s.Close() // never fails
	request := pb.DeleteSessionRequest_builder{Name: s.name, RequestId: rand.Text()}.Build()
	_, err := call(ctx, s.client, s.client.sessions.DeleteSession, request)
	return err
}
