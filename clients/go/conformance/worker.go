package main

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	optserve "github.com/optserve/optserve/clients/go"
	driver "github.com/optserve/optserve/clients/go/gen/optserve/conformance/v1"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// worker is the client, session and stream that the calls of a transcript use.
type worker struct {
	connection *optserve.Client
	session    *optserve.Session
	name       string           // of the worker
	stream     *optserve.Stream // nil for the handle
	window     int              // of the stream; 0 for the handle
	isMember   bool
}

func (w *worker) connect(call *driver.ConnectCall) (*driver.ConnectAnswer, error) {
	w.close()
	client, err := optserve.Connect(call.GetTarget(), optserve.WithToken(call.GetToken()))
	w.connection = client
	return &driver.ConnectAnswer{}, err
}

// close ends everything, as the end of a program does.
func (w *worker) close() {
	if w.connection != nil {
		_ = w.connection.Close()
	}
	*w = worker{}
}

func (w *worker) open(ctx context.Context, call *driver.OpenCall) (*driver.OpenAnswer, error) {
	if w.connection == nil {
		return nil, errors.New("the driver is not connected")
	}
	*w = worker{connection: w.connection, name: call.GetWorker()}
	if w.name == "" {
		w.name = rand.Text()
	}
	session := call.GetSession()
	if session == "" {
		created, err := w.connection.CreateSession(ctx, call.GetSpec(), call.GetParameters(), nil)
		if err != nil {
			return nil, err
		}
		session = created.Name()
	}
	var err error
	if w.session, err = w.connection.SessionAs(ctx, session, w.name); err != nil {
		return nil, err
	}
	found, err := w.connection.Service.GetSession(ctx, pb.GetSessionRequest_builder{Name: session}.Build())
	return driver.OpenAnswer_builder{Session: session, Step: found.GetSession().GetStep()}.Build(), err
}

func (w *worker) join(ctx context.Context, call *driver.JoinCall) (*driver.JoinAnswer, error) {
	lease := time.Duration(call.GetLeaseSeconds() * float64(time.Second))
	joined, err := w.session.Join(ctx, lease)
	w.isMember = err == nil
	return driver.JoinAnswer_builder{Epoch: joined.GetEpoch(), Rank: joined.GetRank()}.Build(), err
}

func (w *worker) leave(ctx context.Context) (*driver.LeaveAnswer, error) {
	w.isMember = false
	return &driver.LeaveAnswer{}, w.session.Leave(ctx)
}

func (w *worker) read(ctx context.Context, call *driver.ReadCall) (*driver.ReadAnswer, error) {
	request := &pb.PullParametersRequest{}
	if call.HasNewerThan() {
		request.SetNewerThanStep(call.GetNewerThan())
	}
	found, err := w.session.Pull(ctx, request, nil)
	if err != nil {
		return nil, err
	}
	return driver.ReadAnswer_builder{Parameters: messages(found.Tensors), Step: found.Step}.Build(), nil
}

// steps takes steps until one fails.
func (w *worker) steps(call *driver.StepsCall) (*driver.StepsAnswer, error) {
	if err := w.use(int(call.GetWindow())); err != nil {
		return nil, err
	}
	answer := &driver.StepsAnswer{}
	err := w.take(call, func(result *optserve.StepResult) {
		answer.SetOutcomes(append(answer.GetOutcomes(), driver.StepOutcome_builder{
			Step: result.GetStep(), Sequence: result.GetSequence(), Replayed: result.GetReplayed(),
		}.Build()))
	})
	var refused *optserve.Error
	if errors.As(err, &refused) {
		answer.SetRefusal(refusal(refused))
		err = nil
	}
	return answer, err
}

func (w *worker) take(call *driver.StepsCall, on func(*optserve.StepResult)) error {
	bounded := func() (context.Context, context.CancelFunc) {
		if !call.HasTimeoutSeconds() {
			return context.Background(), func() {}
		}
		return context.WithTimeout(context.Background(), time.Duration(call.GetTimeoutSeconds()*float64(time.Second)))
	}
	step := func(i int) (optserve.Tensors, *optserve.StepOptions, error) {
		gradients, err := named(call.GetGradients()[i])
		options := &optserve.StepOptions{}
		if call.HasExpectedStep() {
			options.ExpectedStep = new(call.GetExpectedStep() + int64(i))
		}
		if w.isMember { // the next step states the step of the parameters
			options.Pull = &pb.PullOptions{}
		}
		return gradients, options, err
	}
	settle := func(wait func(context.Context) (*optserve.StepResult, error)) error {
		ctx, cancel := bounded()
		defer cancel()
		result, err := wait(ctx)
		if err == nil {
			on(result)
		}
		return err
	}
	var pending []*optserve.Pending
	for i := range call.GetGradients() {
		gradients, options, err := step(i)
		if err != nil {
			return err
		}
		if w.stream == nil {
			err = settle(func(ctx context.Context) (*optserve.StepResult, error) {
				return w.session.Step(ctx, gradients, options)
			})
		} else {
			if len(pending) == w.window {
				if err := settle(pending[0].Result); err != nil {
					return err
				}
				pending = pending[1:]
			}
			var next *optserve.Pending
			next, err = w.stream.Submit(context.Background(), gradients, options)
			pending = append(pending, next)
		}
		if err != nil {
			return err
		}
	}
	for _, next := range pending {
		if err := settle(next.Result); err != nil {
			return err
		}
	}
	return nil
}

// use has the steps taken by a stream with a window, or by the handle. Both are one worker, so one of
// them is used.
func (w *worker) use(window int) error {
	if w.session == nil {
		return errors.New("no session is open")
	}
	if window == w.window {
		return nil
	}
	if w.stream != nil {
		_ = w.stream.Close()
		w.stream = nil
	}
	var err error
	if window > 0 {
		w.stream, err = w.session.Stream(&optserve.StreamOptions{Worker: w.name, Window: window})
	} else {
		w.session, err = w.connection.SessionAs(context.Background(), w.session.Name(), w.name)
	}
	w.window = window
	return err
}
