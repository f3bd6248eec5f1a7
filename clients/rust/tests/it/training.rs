//! Sessions, steps and functions.

use std::io::Cursor;

use optserve::v1::{self, DataType, StepOutcome, watch_session_response::Event};
use optserve::{
    Change, PullOptions, PushOptions, Session, SessionOptions, Step, Tensor, TensorView, bf16, f16, initialized, value,
};

use crate::server::{adam, connect, session, sgd, shared};

fn pull() -> v1::PullOptions {
    v1::PullOptions::default()
}

/// Takes a step with a gradient of 1, and returns the parameter.
async fn step(session: &mut Session) -> f64 {
    let result = session.step(Step::new([("w", &[1.0_f64])]).pull(pull())).await.unwrap();
    result.parameters["w"].as_slice::<f64>().unwrap()[0]
}

#[tokio::test]
async fn a_step_fills_the_callers_slice() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(0.5), &[1.0_f32, 2.0]).await;
    let mut w = [0.0_f32; 2];
    let gradient = [3.0_f32, 4.0];
    let result = session.step_into(Step::new([("w", &gradient)]).per_tensor_norms(), [("w", &mut w)]).await.unwrap();
    assert_eq!(w, [-0.5, 0.0]);
    assert_eq!((result.step, result.gradient_norm, result.tensor_norms[0].norm), (1, 5.0, 5.0));
    assert!(result.parameters.is_empty());
}

#[tokio::test]
async fn options_of_a_step() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(0.5), &[1.0_f64, 2.0]).await;
    let gradient = vec![8.0_f64, 8.0];
    let first = Step::new([("w", &gradient)]).pull(pull()).loss_scale(8.0).expected_step(0).set("learning_rate", 0.25);
    let result = session.step(first).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f64>(), Some(&[0.75, 1.75][..]));
    let result = session.step(Step::new([("w", &gradient)]).pull(pull()).validate_only()).await.unwrap();
    assert_eq!((result.outcome(), result.parameters_step, result.sequence), (StepOutcome::Validated, 1, 0));
    let empty: [(&str, &[f64]); 0] = [];
    let rows = Step::new(empty).rows("w", &[1_i64, 1], &[1.0_f32, 1.0]).pull(pull());
    let result = session.step(rows).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f64>(), Some(&[0.75, 0.75][..]));
    assert_eq!(result.sequence, 2);
}

#[tokio::test]
async fn half_precision_on_the_wire() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f32, 0.0]).await;
    let gradient = vec![-1.5_f32, 1.000_976_562_5];
    for dtype in [DataType::Float16, DataType::Bfloat16] {
        let options = v1::PullOptions { wire_dtype: dtype.into(), ..pull() };
        let mut w = [0.0_f32; 2];
        let step = Step::new([("w", &gradient)]).gradient_dtype(dtype).pull(options);
        session.step_into(step, [("w", &mut w)]).await.unwrap();
        assert!(w[0] > 0.0 && w[1] < 0.0, "{w:?}");
    }
    // 1.0009765625 is exact in float16, and 1 in bfloat16.
    let parameters = session.pull(PullOptions::default()).await.unwrap().tensors;
    assert_eq!(parameters["w"].as_slice::<f32>(), Some(&[3.0, -2.000_976_562_5][..]));
    let parameters = v1::PullOptions { wire_dtype: DataType::Float16.into(), ..pull() };
    let found = session.pull(PullOptions { parameters, ..Default::default() }).await.unwrap();
    assert_eq!(found.tensors["w"].as_slice::<f16>(), Some(&[f16::from_f32(3.0), f16::from_f32(-2.000_976_562_5)][..]));
    let gradient = vec![bf16::from_f32(1.0), bf16::from_f32(2.0)];
    let result = session.step(Step::new([("w", gradient)]).pull(pull())).await.unwrap();
    assert_eq!(result.parameters["w"].as_slice::<f32>(), Some(&[2.0, -4.000_976_562_5][..]));
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
        stream.submit(Step::new([("w", vec![f64::from(i)])]).pull(pull())).await.unwrap();
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
    let change = Change { expected_step: Some(0), ..Default::default() };
    let options = PushOptions { reset_state: true, change, ..Default::default() };
    session.push([("w", &[1.0_f32, 2.0])], options).await.unwrap();
    let mut w = vec![0.0_f64; 2];
    let found = session.pull_into(PullOptions::default(), [("w", &mut w)]).await.unwrap();
    assert_eq!((w, found.step, found.is_modified), (vec![1.0, 2.0], 0, true));
    let options = PullOptions { if_newer_than: Some(0), ..Default::default() };
    let found = session.pull(options).await.unwrap();
    assert!(!found.is_modified && found.tensors.is_empty());
    let other = client.session(session.name()).await.unwrap();
    let options = PullOptions { newer_than: Some(0), ..Default::default() };
    let (found, result) = tokio::join!(other.pull(options), session.step(Step::new([("w", &[1.0_f64, 1.0])])));
    assert_eq!((found.unwrap().step, result.unwrap().step), (1, 1));
}

#[tokio::test]
async fn metrics_and_updates() {
    let client = connect(shared()).await;
    let mut spec = adam();
    spec.reduce_on_plateau = Some(v1::ReduceOnPlateauSpec { patience: Some(5), ..Default::default() });
    let mut session = session(&client, spec, &[0.0_f64]).await;
    for _ in 0..3 {
        let change = Change { request_id: Some("evaluation 1".to_owned()), ..Default::default() };
        session.report_metrics([("val_loss", 1.0)], change).await.unwrap();
    }
    let report = session.report_metrics([("val_loss", 1.0)], Change::default()).await.unwrap();
    assert_eq!(report.reduce_on_plateau.unwrap().waited, 1);
    step(&mut session).await;
    let change = Change { expected_step: Some(1), ..Default::default() };
    let answer = session.update(sgd(0.5), change).await.unwrap();
    assert_eq!(answer.transfers[0].dropped.len(), 2);
}

#[tokio::test]
async fn snapshots() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    step(&mut session).await;
    let snapshot = session.create_snapshot().await.unwrap();
    step(&mut session).await;
    step(&mut session).await;
    assert!(session.list_snapshots().await.unwrap().iter().any(|other| other.name == snapshot.name));
    let mut fork = session.fork(Some(&snapshot.name), "").await.unwrap();
    assert_eq!(step(&mut fork).await, -2.0);
    let change = Change { expected_step: Some(3), ..Default::default() };
    let restored = session.restore_snapshot(&snapshot.name, false, change).await.unwrap();
    assert_eq!((restored.step, step(&mut session).await), (1, -2.0));
    let mut file = Cursor::new(Vec::new());
    assert_eq!(session.export(None, &mut file).await.unwrap(), 2);
    let mut imported = client.import_session(&mut file, "").await.unwrap();
    assert_eq!(step(&mut imported).await, -3.0);
    session.export(Some(&snapshot.name), &mut file).await.unwrap();
    session.delete_snapshot(&snapshot.name).await.unwrap();
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
    assert!(client.sessions().await.unwrap().iter().any(|session| session.name == made.name()));
    assert_eq!(client.capabilities().await.unwrap().api_version, "optserve.v1");
    let spec = made.get().await.unwrap().spec.unwrap();
    assert!(matches!(
        spec.optimizer.unwrap().algorithm,
        Some(v1::optimizer_spec::Algorithm::Sgd(v1::SgdSpec { learning_rate: Some(1.0), .. }))
    ));
}

#[tokio::test]
async fn functions() {
    let client = connect(shared()).await;
    let constant = v1::ConstantScheduleSpec { value: Some(0.5) };
    assert_eq!(client.evaluate_schedule(constant, [3, 1]).await.unwrap(), [0.5, 0.5]);
    let x = Tensor::new(vec![-1.0_f32, 2.0, 3.0, -4.0], &[2, 2]);
    let y = client.activation(v1::ReluSpec {}, &x, None).await.unwrap();
    assert_eq!((y.as_slice::<f32>().unwrap(), y.shape()), (&[0.0, 2.0, 3.0, 0.0][..], &[2, 2][..]));
    let slope = TensorView::new(&[0.5_f32]).shape(&[]);
    let gradient = client.activation_gradient(v1::PreluSpec {}, &x, &x, Some(slope)).await.unwrap();
    assert_eq!(gradient.input.as_slice::<f32>(), Some(&[-0.5, 2.0, 3.0, -2.0][..]));
    assert_eq!(gradient.slope.unwrap().into_vec::<f32>(), Some(vec![17.0]));
    let loss = client.loss(v1::MeanSquaredErrorSpec::default(), &x, &y, None).await.unwrap();
    assert_eq!((loss.value, loss.per_example.shape(), loss.gradient.shape()), (Some(4.25), &[2][..], &[2, 2][..]));
    let dense = v1::DenseSpec { units: Some(3), ..Default::default() };
    let network = v1::NetworkSpec { input_shape: vec![4], layers: vec![dense.into()] };
    let request = v1::EstimateComplexityRequest { network: Some(network), ..Default::default() };
    let estimate = client.estimate_complexity(request).await.unwrap();
    assert_eq!(estimate.total.unwrap().trainable_parameters, 15);
}

#[tokio::test]
async fn initializers() {
    let client = connect(shared()).await;
    let normal = v1::TruncatedNormalSpec { stddev: Some(0.1), ..Default::default() };
    let options = SessionOptions { seed: 7, ..Default::default() };
    let parameters = [initialized("w", &[4, 3], normal)];
    let session = client.create_session_with(sgd(1.0), parameters, options).await.unwrap();
    let parameters = session.pull(PullOptions::default()).await.unwrap().tensors;
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
    assert_eq!(second.workers().await.unwrap().len(), 2);
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
    assert_eq!(first.renew_lease().await.unwrap(), 3);
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
    let tensor = session.pull(PullOptions::default()).await.unwrap().tensors.remove("w").unwrap();
    assert_eq!(tensor.into_array::<f32>().unwrap(), w.into_dyn());
    assert!(TensorMut::try_from(&mut *gradient.clone().reversed_axes()).is_err());
}
