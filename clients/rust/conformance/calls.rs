//! The calls of the corpus.

use std::collections::HashMap;

use optserve::v1::{self, NamedTensor, ParameterPoint};
use optserve::{Client, Session, Step, StepResult, Tensor};

use crate::{Failure, wire};

type Result<T> = std::result::Result<T, Failure>;

/// Takes steps in a session of their own.
pub async fn train(client: &Client, call: wire::TrainCall) -> Result<wire::TrainAnswer> {
    let (spec, parameters) = (call.spec.clone(), call.parameters.clone());
    let request = v1::CreateSessionRequest { spec, parameters, seed: call.seed, ..Default::default() };
    let mut session = client.create_session_as("", request).await?;
    let answer = take_steps(&mut session, &call).await;
    session.delete().await?;
    answer
}

async fn take_steps(session: &mut Session, call: &wire::TrainCall) -> Result<wire::TrainAnswer> {
    let mut answer =
        wire::TrainAnswer { initial: Some(pull(session, ParameterPoint::Parameters).await?), ..Default::default() };
    let steps: Vec<_> = (0..call.gradients.len()).map(|index| step_of(call, index)).collect::<Result<_>>()?;
    let (before, after) = (call.before(), call.after());
    let is_read = before != ParameterPoint::Unspecified || after != ParameterPoint::Unspecified;
    if call.stream && !is_read {
        let mut stream = session.stream(8)?;
        for step in steps {
            if stream.is_full() {
                add(&mut answer, stream.result().await?);
            }
            stream.submit(step).await?;
        }
        while stream.pending() > 0 {
            add(&mut answer, stream.result().await?);
        }
        return Ok(answer);
    }
    for step in steps {
        if before != ParameterPoint::Unspecified {
            answer.before.push(pull(session, before).await?);
        }
        let result = if call.stream {
            let mut stream = session.stream(1)?;
            stream.submit(step).await?;
            stream.result().await?
        } else {
            Some(session.step(step).await?)
        };
        add(&mut answer, result);
        if after != ParameterPoint::Unspecified {
            answer.after.push(pull(session, after).await?);
        }
    }
    Ok(answer)
}

fn add(answer: &mut wire::TrainAnswer, result: Option<StepResult>) {
    answer.parameters.extend(result.map(|result| tensors(result.parameters)));
}

fn step_of(call: &wire::TrainCall, index: usize) -> Result<Step<'static>> {
    let mut step = Step::new(gradients_of(&call.gradients[index])?).pull();
    if let Some(sparse) = call.sparse_gradients.get(index) {
        for rows in &sparse.tensors {
            step = step.rows(&rows.name, tensor(rows.indices.clone())?, tensor(rows.values.clone())?);
        }
    }
    if let Some(overrides) = call.overrides.get(index) {
        step.options.overrides.clone_from(&overrides.overrides);
    }
    Ok(step)
}

/// Tensors by name.
pub fn gradients_of(message: &wire::Tensors) -> Result<HashMap<String, Tensor<'static>>> {
    let named = message.tensors.iter();
    named.map(|named| Ok((named.name.clone(), tensor(named.tensor.clone())?))).collect()
}

async fn pull(session: &Session, point: ParameterPoint) -> Result<wire::Tensors> {
    let pull = Some(v1::PullOptions { point: point.into(), ..Default::default() });
    let found = session.pull(v1::PullParametersRequest { pull, ..Default::default() }).await?;
    Ok(tensors(found.tensors))
}

/// Tensors by name as a message.
pub fn tensors(tensors: optserve::Tensors) -> wire::Tensors {
    let named = |(name, tensor)| NamedTensor { name, tensor: Some(v1::Tensor::from(tensor)) };
    wire::Tensors { tensors: tensors.into_iter().map(named).collect() }
}

fn tensor(message: Option<v1::Tensor>) -> Result<Tensor<'static>> {
    Ok(message.unwrap_or_default().try_into()?)
}

/// Evaluates a schedule.
pub async fn schedule(client: &Client, call: wire::ScheduleCall) -> Result<wire::ScheduleAnswer> {
    let at = Some(v1::evaluate_schedule_request::At::Steps(v1::StepList { steps: call.steps }));
    let request = v1::EvaluateScheduleRequest { schedule: call.schedule, at };
    Ok(wire::ScheduleAnswer { values: client.call(request).await?.values })
}

/// Computes a loss and its gradient.
pub async fn loss(client: &Client, call: wire::LossCall) -> Result<wire::LossAnswer> {
    let wire::LossCall { loss, prediction, target, sample_weight } = call;
    let (per_example, gradient) = (true, true);
    let request = v1::ComputeLossRequest { loss, prediction, target, per_example, gradient, sample_weight };
    let v1::ComputeLossResponse { value, per_example, gradient, .. } = client.call(request).await?;
    Ok(wire::LossAnswer { value, per_example, gradient })
}

/// Computes an activation and its gradients.
pub async fn activation(client: &Client, call: wire::ActivationCall) -> Result<wire::ActivationAnswer> {
    let wire::ActivationCall { activation, input, output_gradient, slope } = call;
    let (spec, x, own) = (activation, input.clone(), slope.clone());
    let request = v1::ComputeActivationRequest { activation: spec, input: x, slope: own };
    let output = client.call(request).await?.output;
    let request = v1::ComputeActivationGradientRequest { activation, input, output_gradient, slope };
    let v1::ComputeActivationGradientResponse { input_gradient, slope_gradient, .. } = client.call(request).await?;
    Ok(wire::ActivationAnswer { output, input_gradient, slope_gradient })
}

/// Estimates a network.
pub async fn complexity(client: &Client, call: wire::ComplexityCall) -> Result<wire::ComplexityAnswer> {
    let request = v1::EstimateComplexityRequest { network: call.network, ..Default::default() };
    Ok(wire::ComplexityAnswer { layers: client.call(request).await?.layers })
}

/// Takes steps and reports a metric with each.
pub async fn metrics(client: &Client, call: wire::MetricsCall) -> Result<wire::MetricsAnswer> {
    let parameter = call.parameter.clone().unwrap_or_default();
    let init = optserve::value(&parameter.name, tensor(parameter.tensor)?);
    let mut session = client.create_session(call.spec.clone().unwrap_or_default(), [init]).await?;
    let answer = report(client, &mut session, &call).await;
    session.delete().await?;
    answer
}

async fn report(client: &Client, session: &mut Session, call: &wire::MetricsCall) -> Result<wire::MetricsAnswer> {
    let named = call.gradient.clone().unwrap_or_default();
    let gradient = tensor(named.tensor)?;
    let mut answer = wire::MetricsAnswer::default();
    for &value in &call.values {
        let mut row = wire::MetricsReport::default();
        if !call.report_first {
            row.learning_rate = session.step(Step::new([(&named.name, &gradient)])).await?.learning_rate;
        }
        let (name, metrics) =
            (session.name().to_owned(), vec![v1::Metric { name: call.metric.clone(), value: Some(value) }]);
        let request = v1::ReportMetricsRequest { name, metrics, ..Default::default() };
        let report = client.call(request).await?;
        if call.report_first && !report.stopped {
            row.learning_rate = session.step(Step::new([(&named.name, &gradient)])).await?.learning_rate;
        }
        row.reduce_on_plateau = report.reduce_on_plateau;
        row.early_stopping = report.early_stopping;
        row.stopped = report.stopped;
        answer.reports.push(row);
        if report.stopped {
            break;
        }
    }
    let parameters = pull(session, ParameterPoint::Parameters).await?;
    answer.parameter = parameters.tensors.into_iter().next();
    Ok(answer)
}
