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
	d := &responder{client: client, timings: map[timing]func() error{}}
	defer d.close()
	for {
		request, err := read(input)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := write(output, d.answer(request)); err != nil {
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

// responder answers requests.
type responder struct {
	client  *optserve.Client // of the calls that stand alone
	worker                   // of a transcript
	timings map[timing]func() error
}

// answer returns what came of a request, errors included.
func (d *responder) answer(request *driver.DriverRequest) *driver.DriverResponse {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response, client := &driver.DriverResponse{}, d.client
	var err error
	isOfTranscript := true // whose errors are refusals even if they have no reason
	switch request.WhichCall() {
	case driver.DriverRequest_Connect_case:
		err = set(response.SetConnect)(d.connect(request.GetConnect()))
	case driver.DriverRequest_Open_case:
		err = set(response.SetOpen)(d.open(ctx, request.GetOpen()))
	case driver.DriverRequest_Join_case:
		err = set(response.SetJoin)(d.join(ctx, request.GetJoin()))
	case driver.DriverRequest_Steps_case:
		err = set(response.SetSteps)(d.steps(request.GetSteps()))
	case driver.DriverRequest_Read_case:
		err = set(response.SetRead)(d.read(ctx, request.GetRead()))
	case driver.DriverRequest_Leave_case:
		err = set(response.SetLeave)(d.leave(ctx))
	default:
		isOfTranscript = false
	}
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
	case driver.DriverRequest_Time_case:
		err = set(response.SetTime)(d.time(request.GetTime()))
	default:
		if !isOfTranscript {
			response.SetUnsupported("a call that is newer than this driver")
		}
	}
	var refused *optserve.Error
	switch {
	case errors.Is(err, errUnsupported):
		response.SetUnsupported(err.Error())
	case errors.As(err, &refused) && (isOfTranscript || refused.Reason != 0):
		response.SetRefusal(refusal(refused))
	case err != nil:
		response.SetFailure(err.Error())
	}
	return response
}

func refusal(e *optserve.Error) *driver.Refusal {
	return driver.Refusal_builder{
		Reason: e.Reason, Field: e.Field, Code: int32(e.Code), NotApplied: e.Applied == optserve.AppliedNo,
	}.Build()
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
	options := &optserve.StepOptions{Pull: &pb.PullOptions{}}
	if overrides := call.GetOverrides(); len(overrides) > 0 {
		options.Overrides = overrides[step].GetOverrides()
	}
	if sparse := call.GetSparseGradients(); len(sparse) > 0 {
		options.Sparse = sparse[step].GetTensors()
	}
	gradients, err := named(call.GetGradients()[step])
	return gradients, options, err
}

// named decodes tensors by name.
func named(message *driver.Tensors) (optserve.Tensors, error) {
	tensors := optserve.Tensors{}
	for _, named := range message.GetTensors() {
		var err error
		if tensors[named.GetName()], err = optserve.FromMessage(named.GetTensor()); err != nil {
			return nil, err
		}
	}
	return tensors, nil
}

// pulled returns one of the session's values.
func pulled(ctx context.Context, session *optserve.Session, point pb.ParameterPoint) (*driver.Tensors, error) {
	request := pb.PullParametersRequest_builder{Pull: pb.PullOptions_builder{Point: point}.Build()}.Build()
	parameters, err := session.Pull(ctx, request, nil)
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
	found, err := client.Functions.EvaluateSchedule(ctx, pb.EvaluateScheduleRequest_builder{
		Schedule: call.GetSchedule(), Steps: pb.StepList_builder{Steps: call.GetSteps()}.Build(),
	}.Build())
	return driver.ScheduleAnswer_builder{Values: found.GetValues()}.Build(), err
}

// loss computes a loss and its gradient.
func loss(ctx context.Context, client *optserve.Client, call *driver.LossCall) (*driver.LossAnswer, error) {
	found, err := client.Functions.ComputeLoss(ctx, pb.ComputeLossRequest_builder{
		Loss: call.GetLoss(), Prediction: call.GetPrediction(), Target: call.GetTarget(),
		SampleWeight: call.GetSampleWeight(), PerExample: true, Gradient: true,
	}.Build())
	if err != nil {
		return nil, err
	}
	answer := driver.LossAnswer_builder{PerExample: found.GetPerExample(), Gradient: found.GetGradient()}.Build()
	if found.HasValue() {
		answer.SetValue(found.GetValue())
	}
	return answer, nil
}

// activation computes an activation and its gradients.
func activation(
	ctx context.Context, client *optserve.Client, call *driver.ActivationCall,
) (*driver.ActivationAnswer, error) {
	output, err := client.Functions.ComputeActivation(ctx, pb.ComputeActivationRequest_builder{
		Activation: call.GetActivation(), Input: call.GetInput(), Slope: call.GetSlope(),
	}.Build())
	if err != nil {
		return nil, err
	}
	gradient, err := client.Functions.ComputeActivationGradient(ctx, pb.ComputeActivationGradientRequest_builder{
		Activation: call.GetActivation(), Input: call.GetInput(), Slope: call.GetSlope(),
		OutputGradient: call.GetOutputGradient(),
	}.Build())
	return driver.ActivationAnswer_builder{
		Output:        output.GetOutput(),
		InputGradient: gradient.GetInputGradient(),
		SlopeGradient: gradient.GetSlopeGradient(),
	}.Build(), err
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
	found, err := client.Functions.EstimateComplexity(ctx, request)
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
		report, err := client.Service.ReportMetrics(ctx, pb.ReportMetricsRequest_builder{
			Name:    session.Name(),
			Metrics: []*pb.Metric{pb.Metric_builder{Name: call.GetMetric(), Value: &value}.Build()},
		}.Build())
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
