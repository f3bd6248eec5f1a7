package optserve

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const (
	maxWindow     = 64 // results that a server stores of each worker
	defaultWindow = 8
	endTimeout    = 500 * time.Millisecond // for a server to end a call on which nothing more is sent
)

// StreamOptions are options of a stream.
type StreamOptions struct {
	Window int    // largest number of steps in flight, from 1 to 64; 8 if it is 0
	Worker string // name under which the stream numbers its steps, as of [Client.SessionAs]
}

// StepOptions are options of a step.
type StepOptions struct {
	Pull *pb.PullOptions // parameters to return with the result; none if nil, unless Into is set
	// Into is filled with the parameters; new tensors are made for names that it leaves out. It must not
	// share memory with the gradients. After an error it may hold a part of the new values.
	Into           Tensors
	Sparse         []*pb.SparseRows             // gradients of some rows of tensors
	WireDType      pb.DataType                  // element type of the gradients' bytes; the session's if unspecified
	ExpectedStep   *int64                       // the step that the session must have
	LossScale      *float64                     // factor of the loss, by which gradients are divided
	Overrides      []*pb.HyperparameterOverride // other values in this step alone
	ExampleCount   *uint64                      // examples of a member's gradient; 1 if nil
	ValidateOnly   bool                         // checks and measures the step, and applies nothing
	PerTensorNorms bool                         // requests the norm of each tensor's gradient
}

// StepResult is the result of a step.
type StepResult struct {
	*pb.StepResult
	Parameters     Tensors // that were pulled
	ParametersStep int64   // their step: later than the result's if this is a stored one, sent again
}

// Stream takes steps, several of them in flight at once. Each stream is one worker: the server
// applies its steps in the order in which they were submitted, each once. If the connection is
// lost, the stream connects again and repeats the steps without an answer. After a rejected step,
// those behind it are abandoned, and the stream can be used further.
//
// Any number of goroutines may use it.
type Stream struct {
	client  *Client
	session string
	layout  layout
	worker  string
	window  int

	parametersStep atomic.Int64 // of the parameters that a member received last

	lock    chan struct{} // holds one value while a goroutine uses what follows
	epoch   uint64        // of the worker's membership; 0 for none
	next    uint64        // sequence of the next step; 0 until the server was asked
	unknown uint64        // sequence of a step that was given up and may have been applied
	waiting []*Pending    // steps without an answer
	sent    int           // how many of them are sent on the current call
	plan    *stepPlan     // of the last step
	call    *stepCall     // nil if there is none
}

// stepPlan is what steps have in common. layout is set by the answer to it.
type stepPlan struct {
	message *pb.StepPlan
	layout  []*pb.TensorLayout
}

// Pending is a submitted step.
type Pending struct {
	stream   *Stream
	plan     *stepPlan
	start    *pb.StepStart
	payload  payload
	into     Tensors
	transfer int             // bytes that go and come, about
	written  <-chan struct{} // closed when its bytes are not read any more

	settled bool
	result  *StepResult
	err     error
}

// Stream returns a stream for many steps. It connects with the first one. options may be nil.
func (s *Session) Stream(options *StreamOptions) (*Stream, error) {
	options = cmp.Or(options, &StreamOptions{})
	stream := &Stream{
		client: s.client, session: s.name, layout: s.layout,
		worker: options.Worker, window: cmp.Or(options.Window, defaultWindow), lock: make(chan struct{}, 1),
	}
	if stream.window < 1 || stream.window > maxWindow {
		return nil, rejected(pb.ErrorReason_ERROR_REASON_OUT_OF_RANGE, "Window",
			"the window is %d, but must be from 1 to %d", stream.window, maxWindow)
	}
	if stream.worker == "" {
		stream.worker, stream.next = rand.Text(), 1
	}
	return stream, nil
}

// Step takes a step and waits for its result. options may be nil.
//
// If it fails with [AppliedUnknown], a step with the same gradients and options settles whether it
// was applied, and applies it once.
func (s *Stream) Step(ctx context.Context, gradients Tensors, options *StepOptions) (*StepResult, error) {
	var p *Pending
	err := s.take(ctx, gradients, options, func(ctx context.Context, taken *Pending) error {
		p = taken
		err := s.settle(ctx, p)
		if err != nil { // the gradients are the caller's again, and the number is the next step's
			s.drop()
			s.waiting = slices.DeleteFunc(s.waiting, func(other *Pending) bool { return other == p })
			if sequence := p.start.GetSequence(); sequence > 0 {
				s.next, s.unknown = sequence, sequence
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.result, p.err
}

// Submit hands over a step. It waits only while the window is full.
//
// The gradients, and the tensors of Into, must not be used until [Pending.Result] returns the result
// or an error of the step.
func (s *Stream) Submit(ctx context.Context, gradients Tensors, options *StepOptions) (*Pending, error) {
	var submitted *Pending
	err := s.take(ctx, gradients, options, func(ctx context.Context, p *Pending) error {
		submitted = p
		if s.during(ctx, s.send) != nil {
			s.drop() // it is sent again when its result is waited for
		}
		return nil
	})
	return submitted, err
}

// take puts a step behind the others, and goes on with it before another goroutine can.
func (s *Stream) take(
	ctx context.Context, gradients Tensors, options *StepOptions, then func(context.Context, *Pending) error,
) error {
	p, err := s.prepare(gradients, cmp.Or(options, &StepOptions{}))
	if err != nil {
		return err
	}
	return s.exclusively(ctx, p.transfer, func(ctx context.Context) error {
		if err := s.enqueue(ctx, p); err != nil {
			return err
		}
		return then(ctx, p)
	})
}

// Result waits for the result of the step; calling it again returns the same.
//
// If the context ends or the server cannot be reached, the step stays pending, and Result may be
// called again.
func (p *Pending) Result(ctx context.Context) (*StepResult, error) {
	err := p.stream.exclusively(ctx, p.transfer, func(ctx context.Context) error { return p.stream.settle(ctx, p) })
	if err != nil {
		return nil, err
	}
	return p.result, p.err
}

// Close ends the stream. Steps without a result may or may not be applied.
func (s *Stream) Close() error {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	if s.call != nil && s.call.stream != nil && len(s.waiting) == 0 && s.call.stream.CloseSend() == nil {
		stop := time.AfterFunc(endTimeout, s.call.cancel)
		_, _ = s.call.stream.Recv() // any end will do
		stop.Stop()
	}
	s.drop()
	for _, p := range s.waiting {
		p.settle(nil, &Error{Code: codes.Canceled, Message: "the stream was closed"})
	}
	s.waiting = nil
	return nil
}

// exclusively runs a part of one goroutine at a time.
func (s *Stream) exclusively(ctx context.Context, byteCount int, part func(context.Context) error) error {
	ctx, cancel := s.client.bounded(ctx, byteCount)
	defer cancel()
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
		return part(ctx)
	case <-ctx.Done():
		return ended(ctx, AppliedNo)
	}
}

// prepare checks the gradients and makes a step of them.
func (s *Stream) prepare(gradients Tensors, options *StepOptions) (*Pending, error) {
	names, body, err := s.layout.collect(gradients, options.WireDType)
	if err != nil {
		return nil, err
	}
	sparse, indices := make([]string, len(options.Sparse)), make([]*pb.Tensor, len(options.Sparse))
	for i, rows := range options.Sparse {
		own, err := s.layout.find(rows.GetName())
		if err != nil {
			return nil, err
		}
		sparse[i], indices[i] = rows.GetName(), rows.GetIndices()
		values := Tensor{dtype: rows.GetValues().GetDtype(), raw: rows.GetValues().GetData()}
		if err := body.add(sparse[i], values, nil, cmp.Or(options.WireDType, own.GetDtype())); err != nil {
			return nil, err
		}
	}
	if len(names)+len(sparse) == 0 {
		return nil, rejected(pb.ErrorReason_ERROR_REASON_FIELD_REQUIRED, "gradients", "there is no gradient")
	}
	if err := s.layout.fillable(options.Into); err != nil {
		return nil, err
	}
	pull, transfer := options.Pull, body.byteCount
	if pull == nil && options.Into != nil {
		pull = &pb.PullOptions{}
	}
	if pull != nil {
		transfer *= 2
	}
	return &Pending{
		stream: s, payload: body, into: options.Into, transfer: transfer,
		plan: &stepPlan{message: pb.StepPlan_builder{
			Session: s.session, Tensors: names, SparseTensors: sparse, Pull: pull,
			GradientDtype: options.WireDType, PerTensorNorms: options.PerTensorNorms,
		}.Build()},
		start: pb.StepStart_builder{
			ByteCount: uint64(body.byteCount), ExpectedStep: options.ExpectedStep, LossScale: options.LossScale,
			RowIndices: indices, Overrides: options.Overrides, ValidateOnly: options.ValidateOnly,
			ExampleCount: options.ExampleCount,
		}.Build(),
	}, nil
}

func (p *Pending) settle(result *StepResult, err error) {
	p.result, p.err, p.settled, p.payload = result, err, true, payload{}
}

// enqueue numbers a step and puts it behind the others, once the window has room.
func (s *Stream) enqueue(ctx context.Context, p *Pending) error {
	for len(s.waiting) >= s.window {
		if err := s.advance(ctx); err != nil {
			return err
		}
	}
	if s.next == 0 {
		request := pb.GetSessionRequest_builder{Name: s.session, Worker: s.worker}.Build()
		answer, err := s.client.Service.GetSession(ctx, request)
		if err != nil {
			return err
		}
		s.next = answer.GetNextSequence()
	}
	if s.number(p) {
		p.plan.message.SetWorker(s.worker)
		p.plan.message.SetWorkerEpoch(s.epoch)
		if s.epoch > 0 {
			p.start.SetParametersStep(s.parametersStep.Load())
		}
	}
	if s.plan != nil && proto.Equal(s.plan.message, p.plan.message) {
		p.plan = s.plan
	}
	s.plan, s.waiting = p.plan, append(s.waiting, p)
	return nil
}

// number gives a step the next sequence, unless it applies nothing.
func (s *Stream) number(p *Pending) bool {
	if p.start.GetValidateOnly() {
		return false
	}
	p.start.SetSequence(s.next)
	s.next++
	return true
}

// settle reads answers up to that of a step.
func (s *Stream) settle(ctx context.Context, p *Pending) error {
	for !p.settled {
		if err := s.advance(ctx); err != nil {
			return err
		}
	}
	return nil
}

// advance settles the oldest step, connecting again if that helps. After an error the step stays
// unanswered.
func (s *Stream) advance(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := s.during(ctx, s.exchange)
		if err == nil {
			return nil
		}
		s.drop()
		e, oldest := failure(err, nil), s.waiting[0].start.GetSequence()
		if e.Reason == pb.ErrorReason_ERROR_REASON_SEQUENCE_REUSED && oldest > 0 && oldest == s.unknown {
			// The step that was given up was applied, so this one is the next.
			s.unknown, s.next = 0, s.unknown+1
			for _, p := range s.waiting {
				s.number(p)
			}
			continue
		}
		if !e.repeatable() {
			s.reject(e)
			return nil
		}
		if e := s.client.pause(ctx, attempt, e); e != nil {
			return e
		}
	}
}

// reject fails the oldest step. The server applied none of those behind it.
func (s *Stream) reject(e *Error) {
	for i, p := range slices.Backward(s.waiting) {
		failed := e
		if i > 0 {
			message := "an earlier step of the stream failed: " + e.Message
			failed = &Error{Code: codes.Aborted, Message: message, Applied: AppliedNo, cause: e}
		}
		if sequence := p.start.GetSequence(); sequence > 0 {
			s.next = sequence
		}
		p.settle(nil, failed)
	}
	if e.Applied == AppliedUnknown {
		s.unknown = s.waiting[0].start.GetSequence()
	}
	s.waiting = nil
	if strings.HasPrefix(e.Reason.String(), "ERROR_REASON_SEQUENCE_") { // the worker continues elsewhere
		if expected, err := strconv.ParseUint(e.Metadata["expected"], 10, 64); err == nil {
			s.next = expected
		}
	}
}

// during runs an exchange on a call that ends with a context.
func (s *Stream) during(ctx context.Context, exchange func() error) error {
	if ctx.Err() != nil {
		return ended(ctx, AppliedUnknown)
	}
	if s.call == nil {
		s.call = &stepCall{frame: frame{message: &pb.StepStreamResponse{}}}
		s.call.ctx, s.call.cancel = context.WithCancel(s.client.ctx)
	}
	stop := context.AfterFunc(ctx, s.call.cancel)
	err := exchange()
	if !stop() && err == nil {
		s.drop() // it was cancelled just after the answer
	}
	return err
}

// drop ends the call, and waits until nothing reads the gradients any more. Steps without an answer
// are sent again on the next call.
func (s *Stream) drop() {
	if s.call != nil {
		s.call.cancel()
		s.call.writing.Wait()
	}
	s.call, s.sent = nil, 0
}

// send sends the waiting steps that are not sent yet, in the background: the server may read them
// only when its answers are read.
func (s *Stream) send() (err error) {
	if s.call.stream == nil {
		if s.call.stream, err = s.client.Service.StepStream(s.call.ctx); err != nil {
			return err
		}
	}
	for ; s.sent < len(s.waiting); s.sent++ {
		s.call.write(s.waiting[s.sent])
	}
	return nil
}

// exchange sends what is to be sent, and reads up to the answer to the oldest step.
func (s *Stream) exchange() error {
	if err := s.send(); err != nil {
		return err
	}
	p, answer := s.waiting[0], s.call.frame.message.(*pb.StepStreamResponse)
	err := receiveFrame(s.call.stream, &s.call.frame)
	if err == nil && answer.HasPlanned() {
		p.plan.layout = answer.GetPlanned().GetParameters().GetTensors()
		err = receiveFrame(s.call.stream, &s.call.frame)
	}
	if err != nil {
		return err
	}
	if !answer.HasResult() {
		return malformed("to a step has no result")
	}
	result := &StepResult{StepResult: answer.GetResult(), ParametersStep: answer.GetParametersStep()}
	if p.plan.message.HasPull() {
		if result.Parameters, err = receive(p.plan.layout, p.into, &s.call.frame, s.call.stream); err != nil {
			return err
		}
		s.parametersStep.Store(result.ParametersStep)
	}
	<-p.written
	s.waiting, s.sent = s.waiting[1:], s.sent-1
	if p.start.GetSequence() == s.unknown {
		s.unknown = 0
	}
	p.settle(result, nil)
	return nil
}

// stepCall is one call of StepStream.
type stepCall struct {
	ctx     context.Context
	cancel  context.CancelFunc
	stream  pb.SessionService_StepStreamClient // nil until it is opened
	frame   frame                              // the last answer
	plan    *stepPlan                          // the last one that was sent
	last    <-chan struct{}                    // closed when the last step is sent; nil if there is none
	writing sync.WaitGroup                     // of what is being sent
}

// write sends a step after those before it.
func (c *stepCall) write(p *Pending) {
	previous, written, announce := c.last, make(chan struct{}), p.plan != c.plan
	c.last, p.written, c.plan = written, written, p.plan
	c.writing.Go(func() {
		defer close(written)
		if previous != nil {
			<-previous
		}
		// What goes wrong is the status of the call, which its reader gets.
		if announce && c.stream.Send(pb.StepStreamRequest_builder{Plan: p.plan.message}.Build()) != nil {
			return
		}
		request := pb.StepStreamRequest_builder{Step: p.start}.Build()
		for chunk := range p.payload.chunks() {
			request.SetChunk(chunk)
			if c.stream.Send(request) != nil {
				return
			}
			request = &pb.StepStreamRequest{}
		}
		if request.HasStep() { // there is no chunk
			_ = c.stream.Send(request)
		}
	})
}
