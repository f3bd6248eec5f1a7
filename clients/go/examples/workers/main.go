// Command workers trains one linear model with several workers of a synchronous session: each computes
// the gradient of its own part of the data, and every step applies the mean of all gradients.
//
//	go run ./examples/workers -server localhost:50051
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const (
	features = 3
	examples = 48 // of each worker
	lease    = 30 * time.Second
)

var truth = [features]float32{1, -2, 0.5}

func main() {
	server := flag.String("server", "localhost:50051", "address of the server")
	workers := flag.Int("workers", 3, "number of workers")
	steps := flag.Int("steps", 60, "steps of the session")
	flag.Parse()
	if err := run(*server, *workers, *steps); err != nil {
		fmt.Fprintln(os.Stderr, "workers:", err)
		os.Exit(1)
	}
}

// run creates the session, and has the workers train it.
func run(server string, workers, steps int) error {
	ctx := context.Background()
	client, err := optserve.Connect(server)
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.CreateSession(ctx, pb.SessionSpec_builder{
		Optimizer:    pb.OptimizerSpec_builder{Sgd: pb.SgdSpec_builder{LearningRate: new(1.0)}.Build()}.Build(),
		Coordination: pb.CoordinationSpec_builder{Sync: &pb.CoordinationSync{}}.Build(),
	}.Build(), []*pb.ParameterInit{optserve.Value("w", optserve.NewTensor(make([]float32, features)))}, nil)
	if err != nil {
		return err
	}
	defer session.Delete(ctx)

	// All join before the first step, because a step waits for every member.
	members := make([]*optserve.Session, workers)
	for i := range members {
		if members[i], err = client.SessionAs(ctx, session.Name(), fmt.Sprintf("worker-%d", i)); err != nil {
			return err
		}
		joined, err := members[i].Join(ctx, lease)
		if err != nil {
			return err
		}
		fmt.Printf("worker-%d joined as rank %d in epoch %d\n", i, joined.GetRank(), joined.GetEpoch())
	}
	var running sync.WaitGroup
	failures := make([]error, workers)
	for i, member := range members {
		running.Go(func() { failures[i] = work(ctx, member, i, steps) })
	}
	running.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	found, err := session.Pull(ctx, nil, nil)
	if err != nil {
		return err
	}
	fmt.Printf("step %d: w = %.3f, true %.3f\n", found.Step, optserve.Data[float32](found.Tensors["w"]), truth)
	return nil
}

// work takes steps with the gradients of one worker's examples.
func work(ctx context.Context, member *optserve.Session, number, steps int) error {
	w, gradient := make([]float32, features), make([]float32, features)
	into := optserve.Tensors{"w": optserve.NewTensor(w)}
	gradients := optserve.Tensors{"w": optserve.NewTensor(gradient)}
	if _, err := member.Pull(ctx, nil, into); err != nil {
		return err
	}
	for step := range steps {
		loss := meanSquare(w, number, gradient)
		if number == 0 && step%10 == 0 {
			fmt.Printf("step %d: loss %.6f\n", step, loss)
		}
		// Waits for the other members; w is then what all of them continue with.
		if _, err := member.Step(ctx, gradients, &optserve.StepOptions{Into: into}); err != nil {
			return err
		}
	}
	return member.Leave(ctx)
}

// meanSquare returns the loss of a worker's examples, and fills in its gradient.
func meanSquare(w []float32, number int, gradient []float32) float32 {
	clear(gradient)
	var loss float32
	for example := range examples {
		var x [features]float32
		var difference float32
		for i := range x {
			x[i] = float32((example*7+number*5+i*11)%13)/6 - 1
			difference += (w[i] - truth[i]) * x[i]
		}
		loss += difference * difference / (2 * examples)
		for i := range x {
			gradient[i] += difference * x[i] / examples
		}
	}
	return loss
}
