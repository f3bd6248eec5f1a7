//! Functions without a session.

use crate::client::{Client, call};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorView};
use crate::v1;

/// A computed loss.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The reduced loss; `None` without a reduction.
    pub value: Option<f64>,
    /// The loss of each example.
    pub per_example: Tensor,
    /// The gradient with respect to the prediction.
    pub gradient: Tensor,
}

/// The vector-Jacobian product of an activation.
#[derive(Clone, Debug)]
pub struct ActivationGradient {
    /// The gradient with respect to the input.
    pub input: Tensor,
    /// The gradient with respect to the slope of PReLU; `None` for others.
    pub slope: Option<Tensor>,
}

fn tensor(message: Option<v1::Tensor>) -> Result<Tensor> {
    message.ok_or_else(|| Error::malformed("has no tensor"))?.try_into()
}

impl Client {
    /// Computes the learning rates of steps; the first update is step 0.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn evaluate_schedule(
        &self,
        schedule: impl Into<v1::ScheduleSpec>,
        steps: impl IntoIterator<Item = i64>,
    ) -> Result<Vec<f64>> {
        let steps = v1::StepList { steps: steps.into_iter().collect() };
        let request = v1::EvaluateScheduleRequest {
            schedule: Some(schedule.into()),
            at: Some(v1::evaluate_schedule_request::At::Steps(steps)),
        };
        let answer = call!(self, function_service.evaluate_schedule(request))?;
        tensor(answer.values)?.into_vec().ok_or_else(|| Error::malformed("has rates that are not float64"))
    }

    /// Computes a loss, its values per example, and its gradient with respect to the prediction.
    ///
    /// `target` has the prediction's type and shape, or is class indices (int32 or int64) for sparse
    /// losses. `sample_weight` is a factor for each example.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn loss<'a>(
        &self,
        loss: impl Into<v1::LossSpec>,
        prediction: impl Into<TensorView<'a>>,
        target: impl Into<TensorView<'a>>,
        sample_weight: Option<TensorView<'a>>,
    ) -> Result<Loss> {
        let request = v1::ComputeLossRequest {
            loss: Some(loss.into()),
            prediction: Some(prediction.into().into()),
            target: Some(target.into().into()),
            per_example: true,
            gradient: true,
            sample_weight: sample_weight.map(Into::into),
        };
        let answer = call!(self, function_service.compute_loss(request))?;
        let (per_example, gradient) = (tensor(answer.per_example)?, tensor(answer.gradient)?);
        Ok(Loss { value: answer.value, per_example, gradient })
    }

    /// Computes an activation of a float32 or float64 tensor. `slope` is that of PReLU, which broadcasts
    /// to the input.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn activation<'a>(
        &self,
        activation: impl Into<v1::ActivationSpec>,
        input: impl Into<TensorView<'a>>,
        slope: Option<TensorView<'a>>,
    ) -> Result<Tensor> {
        let request = v1::ComputeActivationRequest {
            activation: Some(activation.into()),
            input: Some(input.into().into()),
            slope: slope.map(Into::into),
        };
        tensor(call!(self, function_service.compute_activation(request))?.output)
    }

    /// Computes the gradient of an activation with respect to its input, from the gradient with respect
    /// to its output. `slope` is as for [`Client::activation`].
    ///
    /// # Errors
    /// If the call fails.
    pub async fn activation_gradient<'a>(
        &self,
        activation: impl Into<v1::ActivationSpec>,
        input: impl Into<TensorView<'a>>,
        output_gradient: impl Into<TensorView<'a>>,
        slope: Option<TensorView<'a>>,
    ) -> Result<ActivationGradient> {
        let request = v1::ComputeActivationGradientRequest {
            activation: Some(activation.into()),
            input: Some(input.into().into()),
            output_gradient: Some(output_gradient.into().into()),
            slope: slope.map(Into::into),
        };
        let answer = call!(self, function_service.compute_activation_gradient(request))?;
        let slope = answer.slope_gradient.map(Tensor::try_from).transpose()?;
        Ok(ActivationGradient { input: tensor(answer.input_gradient)?, slope })
    }

    /// Computes the operations and the memory of a network, layer by layer.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn estimate_complexity(
        &self,
        request: v1::EstimateComplexityRequest,
    ) -> Result<v1::EstimateComplexityResponse> {
        call!(self, function_service.estimate_complexity(request))
    }
}
