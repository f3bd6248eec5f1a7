// Command quickstart trains a classifier of iris flowers on a server: one dense layer, with five
// optimizers. It only multiplies matrices; the server computes softmax, loss and their gradients,
// and takes the steps.
//
//	quickstart -server localhost:50051
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	optserve "github.com/optserve/optserve/clients/go"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const (
	features, classes = 4, 3
	testCount         = 30
	batchSize         = 32
	learningRate      = 0.1
)

//go:embed iris.csv
var iris []byte

var (
	species = map[string]int{"setosa": 0, "versicolor": 1, "virginica": 2}
	softmax = pb.ActivationSpec_builder{Softmax: &pb.SoftmaxSpec{}}.Build()
	mse     = pb.LossSpec_builder{MeanSquaredError: &pb.MeanSquaredErrorSpec{}}.Build()
)

// examples are flowers: a row of features each, and the class of each.
type examples struct {
	inputs []float32
	labels []int
}

func (e examples) slice(start, stop int) examples {
	return examples{e.inputs[start*features : stop*features], e.labels[start:stop]}
}

func main() {
	server := flag.String("server", "", "address of the server; OPTSERVE_SERVER if empty")
	epochs := flag.Int("epochs", 500, "passes over the training data")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *server, *epochs, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run trains with each optimizer and prints the table.
func run(ctx context.Context, address string, epochs int, output, progress io.Writer) error {
	client, err := optserve.Connect(address)
	if err != nil {
		return err
	}
	defer client.Close()
	flowers, err := load()
	if err != nil {
		return err
	}
	train, test := flowers.slice(0, len(order)-testCount), flowers.slice(len(order)-testCount, len(order))
	rate, convention := proto.Float64(learningRate), pb.Convention_CONVENTION_LECTURE
	table := fmt.Sprintf("%-12s%12s%16s%10s\n", "optimizer", "final loss", "test accuracy", "steps/s")
	for _, entry := range []struct {
		name      string
		optimizer pb.OptimizerSpec_builder
	}{
		{"SGD", pb.OptimizerSpec_builder{Sgd: pb.SgdSpec_builder{LearningRate: rate}.Build()}},
		{"momentum", pb.OptimizerSpec_builder{Momentum: pb.MomentumSpec_builder{LearningRate: rate}.Build()}},
		{"AdaGrad", pb.OptimizerSpec_builder{Adagrad: pb.AdagradSpec_builder{LearningRate: rate}.Build()}},
		{"RMSProp", pb.OptimizerSpec_builder{Rmsprop: pb.RmspropSpec_builder{LearningRate: rate}.Build()}},
		{"Adam", pb.OptimizerSpec_builder{Adam: pb.AdamSpec_builder{LearningRate: rate}.Build()}},
	} {
		entry.optimizer.Convention = convention
		m, err := newModel(ctx, client, entry.optimizer.Build())
		if err != nil {
			return err
		}
		begun, loss := time.Now(), 0.0
		for epoch := range epochs {
			if loss, err = m.epoch(ctx, train); err != nil {
				return err
			}
			fmt.Fprintf(progress, "\r%-10s epoch %d of %d, loss %.4f ", entry.name, epoch+1, epochs, loss)
		}
		fmt.Fprintln(progress)
		speed := float64(m.steps) / time.Since(begun).Seconds()
		table += fmt.Sprintf("%-12s%12.8f%15.1f%%%10.0f\n", entry.name, loss, 100*m.accuracy(test), speed)
		if err := m.session.Delete(ctx); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(output, table)
	return err
}

// load reads the flowers in their order.
func load() (examples, error) {
	rows, err := csv.NewReader(bytes.NewReader(iris)).ReadAll()
	if err != nil {
		return examples{}, err
	}
	var found examples
	for _, index := range order {
		row := rows[index+1] // after the header
		for _, text := range row[:features] {
			value, err := strconv.ParseFloat(text, 32)
			if err != nil {
				return examples{}, err
			}
			found.inputs = append(found.inputs, float32(value))
		}
		found.labels = append(found.labels, species[row[features]])
	}
	return found, nil
}

// model is a dense layer whose parameters are trained in a session.
type model struct {
	client        *optserve.Client
	session       *optserve.Session
	weights, bias []float32 // filled by every step
	into          optserve.Tensors
	steps         int
}

func newModel(ctx context.Context, client *optserve.Client, optimizer *pb.OptimizerSpec) (*model, error) {
	small := pb.InitializerSpec_builder{
		TruncatedNormal: pb.TruncatedNormalSpec_builder{Stddev: proto.Float64(0.1)}.Build(),
	}.Build()
	session, err := client.CreateSession(ctx, pb.SessionSpec_builder{Optimizer: optimizer}.Build(), []*pb.ParameterInit{
		optserve.Initialized("weights", small, features, classes),
		optserve.Initialized("bias", small, classes),
	}, nil)
	if err != nil {
		return nil, err
	}
	m := &model{
		client: client, session: session,
		weights: make([]float32, features*classes), bias: make([]float32, classes),
	}
	m.into = optserve.Tensors{"weights": optserve.NewTensor(m.weights), "bias": optserve.NewTensor(m.bias)}
	_, err = session.Pull(ctx, nil, m.into)
	return m, err
}

// epoch takes a step with each batch, and returns the mean loss.
func (m *model) epoch(ctx context.Context, train examples) (float64, error) {
	sum, count := 0.0, 0
	for start := 0; start < len(train.labels); start += batchSize {
		batch := train.slice(start, min(start+batchSize, len(train.labels)))
		loss, gradients, err := m.gradients(ctx, batch)
		if err != nil {
			return 0, err
		}
		if _, err := m.session.Step(ctx, gradients, &optserve.StepOptions{Into: m.into}); err != nil {
			return 0, err
		}
		sum, count, m.steps = sum+loss, count+1, m.steps+1
	}
	return sum / float64(count), nil
}

// gradients goes backwards through loss, softmax and dense layer.
func (m *model) gradients(ctx context.Context, batch examples) (float64, optserve.Tensors, error) {
	size := len(batch.labels)
	z := optserve.NewTensor(m.logits(batch), size, classes).Message()
	probabilities, err := m.client.Functions.ComputeActivation(ctx, pb.ComputeActivationRequest_builder{
		Activation: softmax, Input: z,
	}.Build())
	if err != nil {
		return 0, nil, err
	}
	target := make([]float32, size*classes)
	for i, label := range batch.labels {
		target[i*classes+label] = 1
	}
	loss, err := m.client.Functions.ComputeLoss(ctx, pb.ComputeLossRequest_builder{
		Loss: mse, Prediction: probabilities.GetOutput(), Gradient: true,
		Target: optserve.NewTensor(target, size, classes).Message(),
	}.Build())
	if err != nil {
		return 0, nil, err
	}
	gradient, err := m.client.Functions.ComputeActivationGradient(ctx, pb.ComputeActivationGradientRequest_builder{
		Activation: softmax, Input: z, OutputGradient: loss.GetGradient(),
	}.Build())
	if err != nil {
		return 0, nil, err
	}
	dz, err := optserve.FromMessage(gradient.GetInputGradient())
	if err != nil {
		return 0, nil, err
	}
	weights, bias := make([]float32, features*classes), make([]float32, classes)
	for i, dz := range optserve.Data[float32](dz) {
		row, class := i/classes, i%classes
		bias[class] += dz
		for f := range features {
			weights[f*classes+class] = fma(batch.inputs[row*features+f], dz, weights[f*classes+class])
		}
	}
	return loss.GetValue(), optserve.Tensors{
		"weights": optserve.NewTensor(weights), "bias": optserve.NewTensor(bias),
	}, nil
}

// logits are the outputs of the dense layer.
func (m *model) logits(batch examples) []float32 {
	z := make([]float32, len(batch.labels)*classes)
	for i := range z {
		row, class := i/classes, i%classes
		for f := range features {
			z[i] = fma(batch.inputs[row*features+f], m.weights[f*classes+class], z[i])
		}
		z[i] += m.bias[class]
	}
	return z
}

// accuracy is the share of flowers whose largest logit is that of their class.
func (m *model) accuracy(test examples) float64 {
	z, correct := m.logits(test), 0
	for i, label := range test.labels {
		best := 0
		for class := range classes {
			if z[i*classes+class] > z[i*classes+best] {
				best = class
			}
		}
		if best == label {
			correct++
		}
	}
	return float64(correct) / float64(len(test.labels))
}

// fma rounds once, as the matrix products of the Python demo do.
func fma(x, y, z float32) float32 { return float32(math.FMA(float64(x), float64(y), float64(z))) }
