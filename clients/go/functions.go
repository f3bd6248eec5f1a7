package optserve

import (
	"cmp"
	"context"
	"math"

	pb "github.com/optserve/optserve/clients/go/gen/optserve/v1"
)

// EvaluateSchedule computes the learning rates of steps; the first update is step 0.
func (c *Client) EvaluateSchedule(ctx context.Context, schedule *pb.ScheduleSpec, steps ...int64) ([]float64, error) {
	request := pb.EvaluateScheduleRequest_builder{
		Schedule: schedule, Steps: pb.StepList_builder{Steps: steps}.Build(),
	}.Build()
	answer, err := call(ctx, c, c.functions.EvaluateSchedule, request)
	if err != nil {
		return nil, err
	}
	tensor, err := FromMessage(answer.GetValues())
	return Data[float64](tensor), err
}

// LossOptions are options of [Client.ComputeLoss].
type LossOptions struct {
	// SampleWeight is a factor for each example; 1 each if it has no elements.
	SampleWeight Tensor
	// PerExample requests the loss of each example.
	PerExample bool
	// NoGradient leaves the gradient out.
	NoGradient bool
}

// Loss is a computed loss.
type Loss struct {
	// Value is the reduced loss; NaN without a reduction.
	Value float64
	// Gradient with respect to the prediction, unless it was left out.
	Gradient Tensor
	// PerExample has the loss of each example, if requested.
	PerExample Tensor
}

// ComputeLoss computes a loss and its gradient with respect to the prediction. options may be nil.
//
// target has the prediction's type and shape, or is class indices (int32 or int64) for sparse losses.
func (c *Client) ComputeLoss(
	ctx context.Context, loss *pb.LossSpec, prediction, target Tensor, options *LossOptions,
) (*Loss, error) {
	options = cmp.Or(options, &LossOptions{})
	answer, err := call(ctx, c, c.functions.ComputeLoss, pb.ComputeLossRequest_builder{
		Loss: loss, Prediction: prediction.Message(), Target: target.Message(),
		PerExample: options.PerExample, Gradient: !options.NoGradient, SampleWeight: options.SampleWeight.Message(),
	}.Build())
	if err != nil {
		return nil, err
	}
	found := &Loss{Value: math.NaN()}
	if answer.HasValue() {
		found.Value = answer.GetValue()
	}
	if answer.HasGradient() {
		if found.Gradient, err = FromMessage(answer.GetGradient()); err != nil {
			return nil, err
		}
	}
	if answer.HasPerExample() {
		found.PerExample, err = FromMessage(answer.GetPerExample())
	}
	return found, err
}

// ComputeActivation computes an activation of a float32 or float64 tensor. slope is that of PReLU,
// which broadcasts to x; leave it out for others.
func (c *Client) ComputeActivation(
	ctx context.Context, activation *pb.ActivationSpec, x Tensor, slope ...Tensor,
) (Tensor, error) {
	request := pb.ComputeActivationRequest_builder{Activation: activation, Input: x.Message()}.Build()
	for _, tensor := range slope {
		request.SetSlope(tensor.Message())
	}
	answer, err := call(ctx, c, c.functions.ComputeActivation, request)
	if err != nil {
		return Tensor{}, err
	}
	return FromMessage(answer.GetOutput())
}

// ActivationGradient is the vector-Jacobian product of an activation.
type ActivationGradient struct {
	// Input is the gradient with respect to the input.
	Input Tensor
	// Slope is the gradient with respect to the slope, of PReLU.
	Slope Tensor
}

// ComputeActivationGradient computes the gradient with respect to the input x, from the gradient dy
// with respect to the output. slope is as for [Client.ComputeActivation].
func (c *Client) ComputeActivationGradient(
	ctx context.Context, activation *pb.ActivationSpec, x, dy Tensor, slope ...Tensor,
) (*ActivationGradient, error) {
	request := pb.ComputeActivationGradientRequest_builder{
		Activation: activation, Input: x.Message(), OutputGradient: dy.Message(),
	}.Build()
	for _, tensor := range slope {
		request.SetSlope(tensor.Message())
	}
	answer, err := call(ctx, c, c.functions.ComputeActivationGradient, request)
	if err != nil {
		return nil, err
	}
	found := &ActivationGradient{}
	if found.Input, err = FromMessage(answer.GetInputGradient()); err == nil && answer.HasSlopeGradient() {
		found.Slope, err = FromMessage(answer.GetSlopeGradient())
	}
	return found, err
}

// EstimateComplexity computes the operations and the memory of a network, layer by layer.
func (c *Client) EstimateComplexity(
	ctx context.Context, request *pb.EstimateComplexityRequest,
) (*pb.EstimateComplexityResponse, error) {
	return call(ctx, c, c.functions.EstimateComplexity, request)
}
