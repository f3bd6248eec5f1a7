//! Lost connections, late answers and servers that are killed.

use std::time::Duration;

use optserve::v1::ErrorReason;
use optserve::{Applied, Client, Code, Step};
use tokio::time::{sleep, timeout};

use crate::errors::expect;
use crate::server::{Folder, Proxy, Server, adam, connect, describe, save, session, sgd, shared};

/// Takes steps in a session of its own, several in flight, and returns the parameters.
async fn train(client: &Client, steps: usize, mut before: impl FnMut(usize)) -> Vec<f32> {
    const ELEMENTS: usize = 3000;
    let mut session = session(client, adam(), vec![0.0_f32; ELEMENTS]).await;
    let mut stream = session.stream(3).unwrap();
    let mut expected = 0;
    for step in 0..steps {
        before(step);
        if stream.is_full() {
            expected += 1;
            assert_eq!(stream.result().await.unwrap().unwrap().step, expected);
        }
        let gradient: Vec<_> = (0..ELEMENTS).map(|i| ((step * 31 + i * 17) % 101) as f32 - 50.0).collect();
        stream.submit(Step::new([("w", gradient)]).pull()).await.unwrap();
    }
    while let Some(result) = stream.result().await.unwrap() {
        expected += 1;
        assert_eq!(result.step, expected);
    }
    drop(stream);
    let found = session.pull(Default::default()).await.unwrap();
    assert_eq!(found.step, steps as i64);
    found.tensors["w"].as_slice().unwrap().to_vec()
}

/// Cuts connections at many places of a stream; the result is that of a stream without faults, bit for
/// bit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections() {
    const STEPS: usize = 1000;
    let proxy = Proxy::start(shared()).await;
    let expected = train(&connect(shared()).await, STEPS, |_| {}).await;
    let found = train(&connect(&proxy.address).await, STEPS, |step| {
        if step % 40 == 0 {
            proxy.cut_next_after(400 + 7919 * step % 200_000); // within one of the next gradients
            proxy.cut();
        }
    })
    .await;
    assert!(found == expected);
}

/// Kills a server at every failpoint of a step, and starts another on its journal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_killed_in_a_step() {
    const STEPS: usize = 12;
    let expected = train(&connect(shared()).await, STEPS, |_| {}).await;
    for failpoint in ["before-journal-write", "after-journal-fsync", "after-apply", "before-ack", "after-ack"] {
        let folder = Folder::new();
        let data = format!("--data-dir={}", folder.path("data"));
        let mut first = Server::start(&[&data, &format!("OPTSERVE_FAILPOINT={failpoint}:7")]);
        let proxy = Proxy::start(&first.address).await;
        let client = connect(&proxy.address).await;
        let restart = async {
            while !first.has_ended() {
                sleep(Duration::from_millis(10)).await;
            }
            let second = tokio::task::spawn_blocking(move || Server::start(&[&data])).await.unwrap();
            proxy.route(&second.address);
            second
        };
        let (found, _second) = tokio::join!(train(&client, STEPS, |_| {}), timeout(Duration::from_secs(120), restart));
        assert!(found == expected, "{failpoint}");
        assert!(_second.is_ok(), "the server was not killed at {failpoint}");
    }
}

/// Starts a server again on its port, which the client looks for meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_back() {
    let folder = Folder::new();
    let data = format!("--data-dir={}", folder.path("data"));
    let mut first = Server::start(&[&data]);
    let mut session = session(&connect(&first.address).await, sgd(1.0), &[0.0_f64]).await;
    session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
    first.kill();
    let next = tokio::spawn(async move { session.step(Step::new([("w", &[1.0_f64])])).await.unwrap().step });
    let port = format!("--port={}", first.address.rsplit_once(':').unwrap().1);
    let _second = tokio::task::spawn_blocking(move || Server::start(&[&data, &port])).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(3), next).await.expect("a step soon").unwrap(), 2);
}

/// Continues where the server does, after a crash has lost steps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_the_last_steps() {
    let folder = Folder::new();
    let data = format!("--data-dir={}", folder.path("data"));
    let mut first = Server::start(&[&data, "--durability=snapshot"]);
    let proxy = Proxy::start(&first.address).await;
    let client = connect(&proxy.address).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    let step = || Step::new([("w", &[1.0_f64])]);
    session.step(step()).await.unwrap();
    save(&client, &session).await;
    for _ in 0..3 {
        session.step(step()).await.unwrap();
    }
    first.kill();
    let second = Server::start(&[&data, "--durability=snapshot"]);
    proxy.route(&second.address);
    expect(session.step(step()).await, ErrorReason::SequenceGap);
    let result = session.step(step()).await.unwrap();
    assert_eq!((result.step, result.sequence), (2, 2));
}

/// Gives up a step whose answer is late, by its deadline or by dropping its future, and settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_in_the_middle_of_a_step() {
    let direct = connect(shared()).await;
    for (second, is_dropped) in [(1.0, false), (2.0, false), (1.0, true), (2.0, true)] {
        let proxy = Proxy::start(shared()).await;
        let mut session = session(&connect(&proxy.address).await, sgd(1.0), &[0.0_f64]).await;
        session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
        proxy.stall(true);
        let mut step = Step::new([("w", &[1.0_f64])]);
        if is_dropped {
            assert!(timeout(Duration::from_millis(300), session.step(step)).await.is_err());
        } else {
            step.timeout = Some(Duration::from_millis(300));
            let error = session.step(step).await.unwrap_err();
            assert_eq!((error.code, error.applied), (Code::DeadlineExceeded, Applied::Unknown));
        }
        let name = session.name();
        while describe(&direct, name).await.step < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        proxy.stall(false);
        let result = session.step(Step::new([("w", &[second])])).await.unwrap();
        let is_same = second == 1.0;
        assert_eq!((result.replayed, result.sequence), (is_same, if is_same { 2 } else { 3 }));
        let result = session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
        assert_eq!(result.step, if is_same { 3 } else { 4 });
    }
}

/// Steps of a stream stay pending after a deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_while_the_window_is_full() {
    let proxy = Proxy::start(shared()).await;
    let mut session = session(&connect(&proxy.address).await, sgd(1.0), &[0.0_f64]).await;
    proxy.stall(true);
    let mut stream = session.stream(2).unwrap();
    for _ in 0..2 {
        let mut step = Step::new([("w", vec![1.0_f64])]);
        step.timeout = Some(Duration::from_millis(300));
        stream.submit(step).await.unwrap();
    }
    let error = expect(stream.submit(Step::new([("w", vec![1.0_f64])])).await, ErrorReason::OutOfRange);
    assert_eq!(error.field, "window");
    assert_eq!(stream.result().await.unwrap_err().code, Code::DeadlineExceeded);
    proxy.stall(false);
    for step in 1..3 {
        let mut result = stream.result().await;
        while result.as_ref().is_err_and(|error| error.code == Code::DeadlineExceeded) {
            result = stream.result().await; // on a busy machine
        }
        assert_eq!(result.unwrap().unwrap().step, step);
    }
}
