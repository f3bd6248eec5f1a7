// Command conformance is the Go client's driver of the conformance corpus; see
// proto/optserve/conformance/v1/driver.proto.
//
//	conformance HOST:PORT
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	optserve "github.com/optserve/optserve/clients/go"
	driver "github.com/optserve/optserve/clients/go/gen/optserve/conformance/v1"
	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

const prefixBytes = 4

func main() {
	if err := run(os.Args[len(os.Args)-1], bufio.NewReader(os.Stdin), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// run answers requests until the input ends.
func run(address string, input io.Reader, output io.Writer) error {
	client, err := optserve.Connect(address)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		request, err := read(input)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := write(output, answer(client, request)); err != nil {
			return err
		}
	}
}

func read(input io.Reader) (*driver.DriverRequest, error) {
	prefix := make([]byte, prefixBytes)
	if _, err := io.ReadFull(input, prefix); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(prefix))
	if _, err := io.ReadFull(input, body); err != nil {
		return nil, fmt.Errorf("the request is cut off: %w", err)
	}
	request := &driver.DriverRequest{}
	return request, proto.Unmarshal(body, request)
}

func write(output io.Writer, response *driver.DriverResponse) error {
	message, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, prefixBytes), response)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(message, uint32(len(message)-prefixBytes))
	_, err = output.Write(message)
	return err
}

// answer returns what came of a request, errors included.
func answer(client *optserve.Client, request *driver.DriverRequest) *driver.DriverResponse {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response := &driver.DriverResponse{}
	var err error
	switch request.WhichCall() {
	case driver.DriverRequest_Train_case:
		err = set(response.SetTrain)(train(ctx, client, request.GetTrain()))
	case driver.DriverRequest_Schedule_case:
		err = set(response.SetSchedule)(schedule(ctx, client, request.GetSchedule()))
	case driver.DriverRequest_Loss_case:
		err = set(response.SetLoss)(loss(ctx, client, request.GetLoss()))
	case driver.DriverRequest_Activation_case:
		err = set(response.SetActivation)(activation(ctx, client, request.GetActivation()))
	case driver.DriverRequest_Complexity_case:
		err = set(response.SetComplexity)(complexity(ctx, client, request.GetComplexity()))
	case driver.DriverRequest_Metrics_case:
		err = set(response.SetMetrics)(metrics(ctx, client, request.GetMetrics()))
	default:
		response.SetUnsupported("a call that is newer than this driver")
	}
	var refused *optserve.Error
	switch {
	case errors.As(err, &refused) && refused.Reason != 0:
		response.SetRefusal(driver.Refusal_builder{Reason: refused.Reason, Field: refused.Field}.Build())
	case err != nil:
		response.SetFailure(err.Error())
	}
	return response
}

// set passes an answer on unless there is an error.
func set[T any](setter func(*T)) func(*T, error) error {
	return func(answer *T, err error) error {
		if err == nil {
			setter(answer)
		}
		return err
	}
}

// train takes steps in a session of their own.
func train(ctx context.Context, client *optserve.Client, call *driver.TrainCall) (*driver.TrainAnswer, error) {
	session, err := client.CreateSession(ctx, call.GetSpec(), call.GetParameters(), &optserve.SessionOptions{Seed: call.GetSeed()})
	if err != nil {
		return nil, err
	}
	defer session.Delete(ctx)
	found := &driver.TrainAnswer{}
	initial, err := pulled(ctx, session, pb.ParameterPoint_PARAMETER_POINT_PARAMETERS)
	if err != nil {
		return nil, err
	}
	found.SetInitial(initial)
	if call.GetStream() && call.GetBefore() == 0 && call.GetAfter() == 0 {
		return found, pipeline(ctx, session, call, found)
	}
	step := session.Step
	if call.GetStream() {
		stream, err := session.Stream(nil)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		step = stream.Step
	}
	for i := range call.GetGradients() {
		if point := call.GetBefore(); point != 0 {
			before, err := pulled(ctx, session, point)
			if err != nil {
				return nil, err
			}
			found.SetBefore(append(found.GetBefore(), before))
		}
		gradients, options, err := gradientsOf(call, i)
		if err != nil {
			return nil, err
		}
		result, err := step(ctx, gradients, options)
		if err != nil {
			return nil, err
		}
		found.SetParameters(append(found.GetParameters(), messages(result.Parameters)))
		if point := call.GetAfter(); point != 0 {
			after, err := pulled(ctx, session, point)
			if err != nil {
				return nil, err
			}
			found.SetAfter(append(found.GetAfter(), after))
		}
	}
	return found, nil
}

// pipeline takes steps of which several are in flight at once.
func pipeline(ctx context.Context, session *optserve.Session, call *driver.TrainCall, found *driver.TrainAnswer) error {
	stream, err := session.Stream(nil)
	if err != nil {
		return err
	}
	defer stream.Close()
	submitted := make([]*optserve.Pending, len(call.GetGradients()))
	for i := range submitted {
		gradients, options, err := gradientsOf(call, i)
		if err != nil {
			return err
		}
		if submitted[i], err = stream.Submit(ctx, gradients, options); err != nil {
			return err
		}
	}
	for _, pending := range submitted {
		result, err := pending.Result(ctx)
		if err != nil {
			return err
		}
		found.SetParameters(append(found.GetParameters(), messages(result.Parameters)))
	}
	return nil
}

// gradientsOf returns the whole gradients of a step, and its options with sparse rows and overrides.
func gradientsOf(call *driver.TrainCall, step int) (optserve.Tensors, *optserve.StepOptions, error) {
	options := &optserve.StepOptions{Pull: &pb.PullOptions{}, Sparse: map[string]optserve.Rows{}}
	if overrides := call.GetOverrides(); len(overrides) > 0 {
		options.Overrides = overrides[step].GetOverrides()
	}
	if sparse := call.GetSparseGradients(); len(sparse) > 0 {
		for _, rows := range sparse[step].GetTensors() {
			indices, err := optserve.FromMessage(rows.GetIndices())
			if err != nil {
				return nil, nil, err
			}
			values, err := optserve.FromMessage(rows.GetValues())
			if err != nil {
				return nil, nil, err
			}
			options.Sparse[rows.GetName()] = optserve.Rows{Indices: indices, Values: values}
		}
	}
	gradients := optserve.Tensors{}
	for _, named := range call.GetGradients()[step].GetTensors() {
		var err error
		if gradients[named.GetName()], err = optserve.FromMessage(named.GetTensor()); err != nil {
			return nil, nil, err
		}
	}
	return gradients, options, nil
}

// pulled returns one of the session's values.
func pulled(ctx context.Context, session *optserve.Session, point pb.ParameterPoint) (*driver.Tensors, error) {
	options := &optserve.ReadOptions{Pull: pb.PullOptions_builder{Point: point}.Build()}
	parameters, err := session.Pull(ctx, options)
	if err != nil {
		return nil, err
	}
	return messages(parameters.Tensors), nil
}

func messages(tensors optserve.Tensors) *driver.Tensors {
	found := &driver.Tensors{}
	for name, tensor := range tensors {
		named := pb.NamedTensor_builder{Name: name, Tensor: tensor.Message()}.Build()
		found.SetTensors(append(found.GetTensors(), named))
	}
	return found
}

func schedule(ctx context.Context, client *optserve.Client, call *driver.ScheduleCall) (*driver.ScheduleAnswer, error) {
	values, err := client.EvaluateSchedule(ctx, call.GetSchedule(), call.GetSteps()...)
	if err != nil {
		return nil, err
	}
	return driver.ScheduleAnswer_builder{Values: optserve.NewTensor(values).Message()}.Build(), nil
}

// loss computes a loss and its gradient.
func loss(ctx context.Context, client *optserve.Client, call *driver.LossCall) (*driver.LossAnswer, error) {
	inputs, err := tensorsOf(call.GetPrediction(), call.GetTarget(), call.GetSampleWeight())
	if err != nil {
		return nil, err
	}
	options := &optserve.LossOptions{PerExample: true, SampleWeight: inputs[2]}
	found, err := client.ComputeLoss(ctx, call.GetLoss(), inputs[0], inputs[1], options)
	if err != nil {
		return nil, err
	}
	answer := driver.LossAnswer_builder{
		PerExample: found.PerExample.Message(), Gradient: found.Gradient.Message(),
	}.Build()
	if call.GetLoss().GetReduction() != pb.LossReduction_LOSS_REDUCTION_NONE {
		answer.SetValue(found.Value)
	}
	return answer, nil
}

// activation computes an activation and its gradients.
func activation(
	ctx context.Context, client *optserve.Client, call *driver.ActivationCall,
) (*driver.ActivationAnswer, error) {
	inputs, err := tensorsOf(call.GetInput(), call.GetOutputGradient(), call.GetSlope())
	if err != nil {
		return nil, err
	}
	slope := inputs[2:]
	if !call.HasSlope() {
		slope = nil
	}
	output, err := client.ComputeActivation(ctx, call.GetActivation(), inputs[0], slope...)
	if err != nil {
		return nil, err
	}
	gradient, err := client.ComputeActivationGradient(ctx, call.GetActivation(), inputs[0], inputs[1], slope...)
	if err != nil {
		return nil, err
	}
	return driver.ActivationAnswer_builder{
		Output:        output.Message(),
		InputGradient: gradient.Input.Message(),
		SlopeGradient: gradient.Slope.Message(),
	}.Build(), nil
}

// tensorsOf decodes tensors; a missing one has no elements.
func tensorsOf(messages ...*pb.Tensor) ([]optserve.Tensor, error) {
	tensors := make([]optserve.Tensor, len(messages))
	for i, message := range messages {
		if message != nil {
			var err error
			if tensors[i], err = optserve.FromMessage(message); err != nil {
				return nil, err
			}
		}
	}
	return tensors, nil
}

func complexity(
	ctx context.Context, client *optserve.Client, call *driver.ComplexityCall,
) (*driver.ComplexityAnswer, error) {
	request := pb.EstimateComplexityRequest_builder{Network: call.GetNetwork()}.Build()
	found, err := client.EstimateComplexity(ctx, request)
	if err != nil {
		return nil, err
	}
	return driver.ComplexityAnswer_builder{Layers: found.GetLayers()}.Build(), nil
}

// metrics takes steps and reports a metric with each.
func metrics(ctx context.Context, client *optserve.Client, call *driver.MetricsCall) (*driver.MetricsAnswer, error) {
	inputs, err := tensorsOf(call.GetParameter().GetTensor(), call.GetGradient().GetTensor())
	if err != nil {
		return nil, err
	}
	name := call.GetParameter().GetName()
	session, err := client.CreateSession(ctx, call.GetSpec(), []*pb.ParameterInit{optserve.Value(name, inputs[0])}, nil)
	if err != nil {
		return nil, err
	}
	defer session.Delete(ctx)
	gradients := optserve.Tensors{call.GetGradient().GetName(): inputs[1]}
	found := &driver.MetricsAnswer{}
	for _, value := range call.GetValues() {
		row := &driver.MetricsReport{}
		step := func() error {
			result, err := session.Step(ctx, gradients, nil)
			if err == nil {
				row.SetLearningRate(result.GetLearningRate())
			}
			return err
		}
		if !call.GetReportFirst() {
			if err := step(); err != nil {
				return nil, err
			}
		}
		report, err := session.ReportMetrics(ctx, map[string]float64{call.GetMetric(): value})
		if err != nil {
			return nil, err
		}
		if call.GetReportFirst() && !report.GetStopped() {
			if err := step(); err != nil {
				return nil, err
			}
		}
		row.SetReduceOnPlateau(report.GetReduceOnPlateau())
		row.SetEarlyStopping(report.GetEarlyStopping())
		row.SetStopped(report.GetStopped())
		found.SetReports(append(found.GetReports(), row))
		if report.GetStopped() {
			break
		}
	}
	last, err := pulled(ctx, session, pb.ParameterPoint_PARAMETER_POINT_PARAMETERS)
	if err != nil {
		return nil, err
	}
	found.SetParameter(last.GetTensors()[0])
	return found, nil
}
