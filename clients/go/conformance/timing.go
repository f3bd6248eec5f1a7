package main

import (
	"context"
	"errors"
	"runtime"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	optserve "github.com/optserve/optserve/clients/go"
	driver "github.com/optserve/optserve/clients/go/gen/optserve/conformance/v1"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

var errUnsupported = errors.New("the client does not have this way")

// timing is what is measured; what was made for it is used again.
type timing struct {
	target          string
	way             driver.Way
	elements, chunk int64
}

func (d *responder) time(call *driver.TimeCall) (*driver.TimeAnswer, error) {
	key := timing{call.GetTarget(), call.GetWay(), call.GetElements(), call.GetChunkBytes()}
	once := d.timings[key]
	if once == nil {
		var err error
		switch call.GetWay() {
		case driver.Way_WAY_STREAM, driver.Way_WAY_HANDLE:
			once, err = steps(key)
		case driver.Way_WAY_ECHO:
			once, err = exchanges(key)
		default:
			err = errUnsupported
		}
		if err == nil {
			err = once() // connects, and has the server prepare its kernels
		}
		if err != nil {
			return nil, err
		}
		d.timings[key] = once
	}
	begun := time.Now()
	for range call.GetRepeats() {
		if err := once(); err != nil {
			return nil, err
		}
	}
	seconds := time.Since(begun).Seconds()
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	peak := usage.Maxrss
	if runtime.GOOS != "darwin" {
		peak *= 1024
	}
	return driver.TimeAnswer_builder{Seconds: seconds, PeakBytes: peak}.Build(), err
}

// steps returns a function that takes a step of a new session.
func steps(key timing) (func() error, error) {
	client, err := optserve.Connect(key.target)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	w := optserve.NewTensor(make([]float32, key.elements))
	gradients, into := optserve.Tensors{"w": optserve.NewTensor(make([]float32, key.elements))}, optserve.Tensors{"w": w}
	spec := pb.SessionSpec_builder{
		Optimizer: pb.OptimizerSpec_builder{Adam: pb.AdamSpec_builder{LearningRate: new(0.001)}.Build()}.Build(),
	}.Build()
	session, err := client.CreateSession(ctx, spec, []*pb.ParameterInit{optserve.Value("w", w)}, nil)
	if err != nil {
		return nil, err
	}
	step, options := session.Step, &optserve.StepOptions{Into: into}
	if key.way == driver.Way_WAY_STREAM {
		stream, err := session.Stream(&optserve.StreamOptions{Window: 1})
		if err != nil {
			return nil, err
		}
		step = stream.Step
	}
	return func() error {
		_, err := step(ctx, gradients, options)
		return err
	}, nil
}

// exchanges returns a function that makes an exchange of as many bytes as a step has.
func exchanges(key timing) (func() error, error) {
	byteCount := 4 * key.elements
	connection, err := grpc.NewClient(key.target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		return nil, err
	}
	stream, err := driver.NewEchoServiceClient(connection).Exchange(context.Background())
	if err != nil {
		return nil, err
	}
	if err := stream.Send(driver.ExchangeRequest_builder{ByteCount: byteCount}.Build()); err != nil {
		return nil, err
	}
	sent, received := make([]byte, byteCount), make([]byte, byteCount)
	return func() error {
		failed := make(chan error, 1)
		go func() { // the server may read only when its answers are read
			var err error
			for offset := int64(0); err == nil && offset < byteCount; offset += key.chunk {
				data := sent[offset:min(offset+key.chunk, byteCount)]
				err = stream.Send(driver.ExchangeRequest_builder{Data: data}.Build())
			}
			failed <- err
		}()
		for filled := 0; filled < len(received); {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			filled += copy(received[filled:], answer.GetData())
		}
		return <-failed
	}, nil
}
