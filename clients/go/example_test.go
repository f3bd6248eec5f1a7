package optserve_test

import (
	"context"
	"fmt"
	"log"

	"google.golang.org/protobuf/proto"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// Fits a line to four points: the client computes the gradient, Adam and its state are on the server.
func Example() {
	ctx := context.Background()
	client, err := optserve.Connect("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	spec := pb.SessionSpec_builder{
		Optimizer: pb.OptimizerSpec_builder{
			Adam: pb.AdamSpec_builder{LearningRate: proto.Float64(0.1)}.Build(),
		}.Build(),
	}.Build()
	line := []float64{0, 0} // slope and intercept
	session, err := client.CreateSession(ctx, spec, []*pb.ParameterInit{
		optserve.Value("line", optserve.NewTensor(line)),
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	options := &optserve.StepOptions{Into: optserve.Tensors{"line": optserve.NewTensor(line)}}
	gradient := make([]float64, 2)
	for range 200 {
		gradient[0], gradient[1] = 0, 0
		for x, y := range []float64{1, 3, 5, 7} {
			residual := line[0]*float64(x) + line[1] - y
			gradient[0] += residual * float64(x)
			gradient[1] += residual
		}
		if _, err := session.Step(ctx, optserve.Tensors{"line": optserve.NewTensor(gradient)}, options); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("y = %.2f x + %.2f\n", line[0], line[1])
}
