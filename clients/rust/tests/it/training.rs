//! Sessions, steps and functions.

use std::io::Cursor;

use optserve::v1::{self, DataType, StepOutcome, watch_session_response::Event};
use optserve::{Session, Step, Tensor, bf16, f16, initialized, value};

use crate::server::{adam, connect, describe, save, session, sgd, shared};

/// Takes a step with a gradient of 1, and returns the parameter.
async fn step(session: &mut Session) -> f64 {
    let result = session.step(Step::new([("w", &[1.0_f64])]).pull()).await.unwrap();
    result.parameters["w"].as_slice::<f64>().unwrap()[0]
}

#[tokio::test]
async fn a_step_fills_the_callers_slice() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(0.5), &[1.0_f32, 2.0]).await;
    let mut w = [0.0_f32; 2];
    let gradient = [3.0_f32, 4.0];
    let mut step = Step::new([("w", &gradient)]);
    step.plan.per_tensor_norms = true;
    let result = session.step_into(step, [("w", &mut w)]).await.unwrap();
    assert_eq!(w, [-0.5, 0.0]);
    assert_eq!((result.step, result.gradient_norm, result.tensor_norms[0].norm), (1, 5.0, 5.0));
    assert!(result.parameters.is_empty());
}

#[tokio::test]
async fn options_of_a_step() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(0.5), &[1.0_f64, 2.0]).await;
    let gradient = vec![8.0_f64, 8.0];
    let mut first = Step::new([("w", &gradient)]).pull();
    first.options.loss_scale = Some(8.0);
    first.options.expected_step = Some(0);
    let name = "learning_rate".to_owned();
    first.options.overrides = vec![v1::HyperparameterOverride { group: None, name, value: 0.25 }];
    let result = session.step(first).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f64>(), Some(&[0.75, 1.75][..]));
    let mut second = Step::new([("w", &gradient)]).pull();
    second.options.validate_only = true;
    let result = session.step(second).await.unwrap();
    assert_eq!((result.outcome(), result.parameters_step, result.sequence), (StepOutcome::Validated, 1, 0));
    let empty: [(&str, &[f64]); 0] = [];
    let rows = Step::new(empty).rows("w", &[1_i64, 1], &[1.0_f32, 1.0]).pull();
    let result = session.step(rows).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f64>(), Some(&[0.75, 0.75][..]));
    assert_eq!(result.sequence, 2);
}

#[tokio::test]
async fn half_precision_on_the_wire() {
    const FINE: f32 = 1.0 + 1.0 / 1024.0;
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f32, 0.0]).await;
    let gradient = vec![-1.5_f32, FINE];
    for dtype in [DataType::Float16, DataType::Bfloat16] {
        let mut w = [0.0_f32; 2];
        let mut step = Step::new([("w", &gradient)]);
        step.plan.set_gradient_dtype(dtype);
        step.plan.pull = Some(v1::PullOptions { wire_dtype: dtype.into(), ..Default::default() });
        session.step_into(step, [("w", &mut w)]).await.unwrap();
        assert!(w[0] > 0.0 && w[1] < 0.0, "{w:?}");
    }
    // FINE is exact in float16, and 1 in bfloat16.
    let parameters = session.pull(Default::default()).await.unwrap().tensors;
    assert_eq!(parameters["w"].as_slice::<f32>(), Some(&[3.0, -1.0 - FINE][..]));
    let pull = Some(v1::PullOptions { wire_dtype: DataType::Float16.into(), ..Default::default() });
    let found = session.pull(v1::PullParametersRequest { pull, ..Default::default() }).await.unwrap();
    assert_eq!(found.tensors["w"].as_slice::<f16>(), Some(&[f16::from_f32(3.0), f16::from_f32(-1.0 - FINE)][..]));
    let gradient = vec![bf16::from_f32(1.0), bf16::from_f32(2.0)];
    let result = session.step(Step::new([("w", gradient)]).pull()).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f32>(), Some(&[2.0, -3.0 - FINE][..]));
}

/// Tensors of several types, which are cut by chunks at odd places.
#[tokio::test]
async fn large_steps_of_many_tensors() {
    const SIZE: usize = 300_007;
    let client = connect(shared()).await;
    let names: Vec<String> = (0..9).map(|i| format!("t{i}")).collect();
    let gradient_of = |i: usize| -> Vec<f32> { (0..SIZE + i).map(|j| ((i + 1) * (j % 1021)) as f32 / 512.0).collect() };
    let parameters = names.iter().enumerate().map(|(i, name)| match i % 3 {
        1 => value(name, vec![0.0_f64; SIZE + i]),
        _ => value(name, vec![0.0_f32; SIZE + i]),
    });
    let mut session = client.create_session(sgd(1.0), parameters).await.unwrap();
    let step = Step::new(names.iter().enumerate().map(|(i, name)| (name, gradient_of(i))));
    let mut t1 = vec![0.0_f32; SIZE + 1]; // float64 at the server
    let result = session.step_into(step, [("t1", &mut t1)]).await.unwrap();
    for (i, name) in names.iter().enumerate() {
        let expected: Vec<f32> = gradient_of(i).iter().map(|slope| -slope).collect();
        let found = match (i, result.parameters.get(name)) {
            (1, None) => t1.clone(),
            (_, Some(tensor)) if i % 3 == 1 => tensor.as_slice::<f64>().unwrap().iter().map(|w| *w as f32).collect(),
            (_, tensor) => tensor.unwrap().as_slice::<f32>().unwrap().to_vec(),
        };
        assert!(found == expected, "{name}");
    }
    session.delete().await.unwrap();
}

#[tokio::test]
async fn a_stream_answers_in_order() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    let mut stream = session.stream(4).unwrap();
    let mut results = Vec::new();
    for i in 0..20 {
        if stream.is_full() {
            results.push(stream.result().await.unwrap().unwrap());
        }
        stream.submit(Step::new([("w", vec![f64::from(i)])]).pull()).await.unwrap();
    }
    while let Some(result) = stream.result().await.unwrap() {
        results.push(result);
    }
    let mut sum = 0.0;
    for (i, result) in results.iter().enumerate() {
        sum -= i as f64;
        assert_eq!(result.step, i as i64 + 1);
        assert_eq!(result.parameters["w"].as_slice::<f64>(), Some(&[sum][..]));
    }
    assert_eq!(results.len(), 20);
}

#[tokio::test]
async fn a_name_continues_with_its_next_sequence() {
    let client = connect(shared()).await;
    let name = session(&client, sgd(1.0), &[0.0_f64]).await.name().to_owned();
    for start in 1..4 {
        let mut session = client.session_as(&name, "trainer").await.unwrap();
        let result = session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
        assert_eq!((result.sequence, result.step), (start, start as i64));
        session.close().await;
    }
}

#[tokio::test]
async fn push_and_pull() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64, 0.0]).await;
    let options = v1::PushHeader { reset_state: true, expected_step: Some(0), ..Default::default() };
    session.push([("w", &[1.0_f32, 2.0])], options).await.unwrap();
    let mut w = vec![0.0_f64; 2];
    let found = session.pull_into(Default::default(), [("w", &mut w)]).await.unwrap();
    assert_eq!((w, found.step, found.is_modified), (vec![1.0, 2.0], 0, true));
    let options = v1::PullParametersRequest { if_newer_than_step: Some(0), ..Default::default() };
    let found = session.pull(options).await.unwrap();
    assert!(!found.is_modified && found.tensors.is_empty());
    let other = client.session(session.name()).await.unwrap();
    let options = v1::PullParametersRequest { newer_than_step: Some(0), ..Default::default() };
    let (found, result) = tokio::join!(other.pull(options), session.step(Step::new([("w", &[1.0_f64, 1.0])])));
    assert_eq!((found.unwrap().step, result.unwrap().step), (1, 1));
}

#[tokio::test]
async fn metrics_and_updates() {
    let client = connect(shared()).await;
    let mut spec = adam();
    spec.reduce_on_plateau = Some(v1::ReduceOnPlateauSpec { patience: Some(5), ..Default::default() });
    let mut session = session(&client, spec, &[0.0_f64]).await;
    let name = session.name().to_owned();
    let metrics = vec![v1::Metric { name: "val_loss".to_owned(), value: Some(1.0) }];
    let report = v1::ReportMetricsRequest { name: name.clone(), metrics, ..Default::default() };
    client.call(report.clone()).await.unwrap();
    let report = client.call(report).await.unwrap(); // in the same words, but another report
    assert_eq!(report.reduce_on_plateau.unwrap().waited, 1);
    step(&mut session).await;
    let (spec, expected_step) = (Some(sgd(0.5)), Some(1));
    let update = v1::UpdateSessionRequest { name, spec, expected_step, ..Default::default() };
    let answer = client.call(update).await.unwrap();
    assert_eq!(answer.transfers[0].dropped.len(), 2);
}

#[tokio::test]
async fn snapshots() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    step(&mut session).await;
    let snapshot = save(&client, &session).await;
    step(&mut session).await;
    step(&mut session).await;
    let all = client.call(v1::ListSnapshotsRequest { name: session.name().to_owned() }).await.unwrap();
    assert!(all.snapshots.iter().any(|other| other.name == snapshot.name));
    let mut fork = session.fork(Some(&snapshot.name), "").await.unwrap();
    assert_eq!(step(&mut fork).await, -2.0);
    let (name, expected_step) = (snapshot.name.clone(), Some(3));
    let restore = v1::RestoreSnapshotRequest { name, expected_step, ..Default::default() };
    let restored = client.call(restore).await.unwrap().session.unwrap();
    assert_eq!((restored.step, step(&mut session).await), (1, -2.0));
    let mut file = Cursor::new(Vec::new());
    assert_eq!(session.export(None, &mut file).await.unwrap(), 2);
    let mut imported = client.import_session(file.get_ref(), "").await.unwrap();
    assert_eq!(step(&mut imported).await, -3.0);
    session.export(Some(&snapshot.name), &mut file).await.unwrap();
    client.call(v1::DeleteSnapshotRequest { name: snapshot.name, ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn watched_events() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    let mut events = session.watch();
    assert!(matches!(events.next().await.unwrap().unwrap().event, Some(Event::Began(_))));
    step(&mut session).await;
    assert!(matches!(events.next().await.unwrap().unwrap().event, Some(Event::Step(_))));
    session.delete().await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap().event, Some(Event::Deleted(_))));
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test]
async fn sessions_and_capabilities() {
    let client = connect(shared()).await;
    let made = session(&client, sgd(1.0), &[0.0_f64]).await;
    let listed = client.call(v1::ListSessionsRequest { page_size: 1000, ..Default::default() }).await.unwrap();
    assert!(listed.sessions.iter().any(|session| session.name == made.name()));
    assert_eq!(client.call(v1::GetCapabilitiesRequest {}).await.unwrap().api_version, "optserve.v1");
    let spec = describe(&client, made.name()).await.spec.unwrap();
    assert!(matches!(
        spec.optimizer.unwrap().algorithm,
        Some(v1::optimizer_spec::Algorithm::Sgd(v1::SgdSpec { learning_rate: Some(1.0), .. }))
    ));
}

fn tensor(message: Option<v1::Tensor>) -> Tensor<'static> {
    message.unwrap().try_into().unwrap()
}

#[tokio::test]
async fn functions() {
    let client = connect(shared()).await;
    let schedule = Some(v1::ConstantScheduleSpec { value: Some(0.5) }.into());
    let at = Some(v1::evaluate_schedule_request::At::Steps(v1::StepList { steps: vec![3, 1] }));
    let answer = client.call(v1::EvaluateScheduleRequest { schedule, at }).await.unwrap();
    assert_eq!(tensor(answer.values).as_slice::<f64>(), Some(&[0.5, 0.5][..]));

    let x = || Some(Tensor::new(&[-1.0_f32, 2.0, 3.0, -4.0]).with_shape(&[2, 2]).into());
    let activation = Some(v1::ReluSpec::default().into());
    let request = v1::ComputeActivationRequest { activation, input: x(), slope: None };
    let target = client.call(request).await.unwrap().output;
    let y = tensor(target.clone());
    assert_eq!((y.as_slice::<f32>().unwrap(), y.shape()), (&[0.0, 2.0, 3.0, 0.0][..], vec![2, 2]));

    let slope = Some(Tensor::new(&[0.5_f32]).with_shape(&[]).into());
    let (activation, input, output_gradient) = (Some(v1::PreluSpec {}.into()), x(), x());
    let request = v1::ComputeActivationGradientRequest { activation, input, output_gradient, slope };
    let answer = client.call(request).await.unwrap();
    assert_eq!(tensor(answer.input_gradient).as_slice::<f32>(), Some(&[-0.5, 2.0, 3.0, -2.0][..]));
    assert_eq!(tensor(answer.slope_gradient).as_slice::<f32>(), Some(&[17.0][..]));

    let (loss, gradient) = (Some(v1::MeanSquaredErrorSpec::default().into()), true);
    let request = v1::ComputeLossRequest { loss, prediction: x(), target, gradient, ..Default::default() };
    let answer = client.call(request).await.unwrap();
    assert_eq!((answer.value, tensor(answer.gradient).shape()), (Some(4.25), vec![2, 2]));

    let dense = v1::DenseSpec { units: Some(3), ..Default::default() };
    let network = v1::NetworkSpec { input_shape: vec![4], layers: vec![dense.into()] };
    let request = v1::EstimateComplexityRequest { network: Some(network), ..Default::default() };
    let estimate = client.call(request).await.unwrap();
    assert_eq!(estimate.total.unwrap().trainable_parameters, 15);
}

#[tokio::test]
async fn initializers() {
    let client = connect(shared()).await;
    let normal = v1::TruncatedNormalSpec { stddev: Some(0.1), ..Default::default() };
    let (spec, parameters) = (Some(sgd(1.0)), vec![initialized("w", &[4, 3], normal)]);
    let request = v1::CreateSessionRequest { spec, parameters, seed: 7, ..Default::default() };
    let session = client.create_session_as("", request).await.unwrap();
    let parameters = session.pull(Default::default()).await.unwrap().tensors;
    let w = parameters["w"].as_slice::<f32>().unwrap();
    assert_eq!(parameters["w"].shape(), [4, 3]);
    assert!(w.iter().any(|element| *element != w[0]));
}

#[tokio::test]
async fn members_of_a_sync_session() {
    let client = connect(shared()).await;
    let mut spec = sgd(1.0);
    spec.coordination = Some(v1::CoordinationSync::default().into());
    let mut first = session(&client, spec, &[0.0_f64]).await;
    let mut second = client.session_as(first.name(), "second").await.unwrap();
    let (one, two) = (first.join(None).await.unwrap(), second.join(None).await.unwrap());
    assert!(one.rank == 0 && two.rank == 1 && two.epoch > one.epoch);
    let members = v1::ListWorkersRequest { session: second.name().to_owned() };
    assert_eq!(client.call(members).await.unwrap().workers.len(), 2);
    for step in 1..4 {
        let (mut a, mut b) = ([0.0_f64], [0.0_f64]);
        let (gradient, other) = ([1.0_f64], [3.0_f64]);
        let (left, right) = tokio::join!(
            first.step_into(Step::new([("w", &gradient)]), [("w", &mut a)]),
            second.step_into(Step::new([("w", &other)]), [("w", &mut b)])
        );
        assert_eq!((left.unwrap().step, right.unwrap().step, a, b), (step, step, [-2.0 * step as f64], a));
    }
    second.leave().await.unwrap();
    let (session, worker, worker_epoch) = (first.name().to_owned(), first.worker().to_owned(), one.epoch);
    let renewal = v1::RenewLeaseRequest { session, worker, worker_epoch };
    assert_eq!(client.call(renewal).await.unwrap().step, 3);
    assert_eq!(step(&mut first).await, -7.0);
}

#[cfg(feature = "ndarray")]
#[tokio::test]
async fn arrays() {
    use ndarray::{Array2, array};
    use optserve::TensorMut;

    let client = connect(shared()).await;
    let mut w: Array2<f32> = array![[1.0, 2.0], [3.0, 4.0]];
    let mut session = session(&client, sgd(1.0), &*w).await;
    let gradient = array![[1.0_f32, 2.0], [3.0, 4.0]];
    let into = TensorMut::try_from(&mut *w).unwrap();
    session.step_into(Step::new([("w", &*gradient.t())]), [("w", into)]).await.unwrap();
    assert_eq!(w, array![[0.0, -1.0], [1.0, 0.0]]);
    let found = session.pull(Default::default()).await.unwrap();
    assert_eq!(found.tensors["w"].to_array::<f32>().unwrap(), w.into_dyn());
    assert!(TensorMut::try_from(&mut *gradient.clone().reversed_axes()).is_err());
}
