//! Errors by reason, and what a caller must be able to do about them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use optserve::v1::{self, ErrorReason};
use optserve::{Applied, Client, Code, Error, Settings, Step};

use crate::server::{Folder, Server, connect, python, session, sgd, shared};

const MINUTE: Duration = Duration::from_secs(60);

fn brief() -> Settings {
    Settings { timeout: Duration::from_secs(1), ..Default::default() }
}

fn with_token(token: &str) -> Settings {
    Settings { token: Some(token.to_owned()), ..Default::default() }
}

/// Checks reason and fate of an error.
#[track_caller]
pub fn expect<T>(result: optserve::Result<T>, reason: ErrorReason) -> Error {
    let error = result.err().expect("an error");
    assert_eq!((error.reason, error.applied), (reason, Applied::No), "{error}");
    error
}

#[tokio::test]
async fn errors_by_reason() {
    let client = connect(shared()).await;
    let error = expect(client.session("sessions/missing").await, ErrorReason::SessionNotFound);
    assert_eq!((error.code, &*error.metadata["name"]), (Code::NotFound, "sessions/missing"));
    assert!(!error.request_id.is_empty() && error.to_string().starts_with("SESSION_NOT_FOUND: "));
    let parameters = [optserve::value("w", &[1.0_f64])];
    let error = expect(client.create_session(sgd(-1.0), parameters).await, ErrorReason::OutOfRange);
    assert_eq!(error.field, "spec.optimizer.sgd.learning_rate");

    let mut session = session(&client, sgd(1.0), &[1.0_f64, 2.0]).await;
    let good = [1.0_f64, 1.0];
    let mut at_step_5 = Step::new([("w", &good)]);
    at_step_5.options.expected_step = Some(5);
    let error = expect(session.step(at_step_5).await, ErrorReason::StepMismatch);
    assert_eq!(error.metadata["current"], "0");
    expect(session.step(Step::new([("w", &[f64::NAN, 1.0])])).await, ErrorReason::NonFiniteGradient);
    expect(session.step(Step::new([("w", &[1.0_f64])])).await, ErrorReason::ShapeMismatch);
    expect(session.step(Step::new([("b", &good)])).await, ErrorReason::UnknownTensor);
    expect(session.step(Step::new([("w", &[1_i32, 1])])).await, ErrorReason::DtypeMismatch);
    let twice = Step::new([("w", &good), ("w", &good)]);
    expect(session.step(twice).await, ErrorReason::DuplicateTensor);
    expect(session.step(Step::new([("w", &good); 0])).await, ErrorReason::FieldRequired);
    expect(session.step(Step::new([("w", &good)]).rows("w", &[0_i32], &[1.0_f64])).await, ErrorReason::DuplicateTensor);
    expect(session.step_into(Step::new([("w", &good)]), [("w", &mut [0.0_f64])]).await, ErrorReason::ShapeMismatch);
    expect(session.stream(65).map(|_| ()), ErrorReason::OutOfRange);
    let result = session.step(Step::new([("w", &good)])).await.unwrap();
    assert_eq!(result.sequence, 1, "rejected steps use no sequence");
}

#[tokio::test]
async fn a_stream_continues_after_a_rejected_step() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    let mut stream = session.stream(4).unwrap();
    stream.submit(Step::new([("w", vec![f64::NAN])])).await.unwrap();
    stream.submit(Step::new([("w", vec![1.0])])).await.unwrap();
    expect(stream.result().await, ErrorReason::NonFiniteGradient);
    let error = expect(stream.result().await, ErrorReason::Unspecified);
    assert_eq!(error.code, Code::Aborted);
    assert!(stream.result().await.unwrap().is_none());
    stream.submit(Step::new([("w", vec![1.0])])).await.unwrap();
    let result = stream.result().await.unwrap().unwrap();
    assert_eq!((result.step, result.sequence), (1, 1));
}

#[tokio::test]
async fn a_session_that_is_deleted_between_steps() {
    let client = connect(shared()).await;
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
    client.session(session.name()).await.unwrap().delete().await.unwrap();
    expect(session.step(Step::new([("w", &[1.0_f64])])).await, ErrorReason::SessionNotFound);
}

#[tokio::test]
async fn a_worker_that_is_fenced() {
    let client = connect(shared()).await;
    let mut spec = sgd(1.0);
    spec.coordination = Some(v1::CoordinationSync::default().into());
    let mut first = session(&client, spec, &[0.0_f64]).await;
    let step = || Step::new([("w", &[1.0_f64])]).pull();
    expect(first.step(step()).await, ErrorReason::NotAMember);
    first.join(Some(Duration::from_secs(5))).await.unwrap();
    first.step(step()).await.unwrap();
    let mut again = client.session_as(first.name(), first.worker()).await.unwrap();
    again.join(None).await.unwrap();
    let error = expect(first.step(step()).await, ErrorReason::Fenced);
    assert_eq!(error.code, Code::FailedPrecondition);
    let result = again.step(step()).await.unwrap();
    assert_eq!((result.step, result.sequence), (2, 2));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let client = Client::connect_with(&address, brief()).await.unwrap();
    let begin = Instant::now();
    let error = client.call(v1::GetCapabilitiesRequest {}).await.unwrap_err();
    assert_eq!((error.code, error.applied), (Code::Unavailable, Applied::Unknown));
    assert!(error.message.contains("tried") && begin.elapsed() < Duration::from_secs(5), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_be_used() {
    let settings = Settings { ca_file: Some("/missing.pem".into()), ..Default::default() };
    let connect = Client::connect_with("localhost:1", settings).await;
    assert_eq!(expect(connect, ErrorReason::UnsupportedValue).field, "ca_file");
    let connect = Client::connect_with("localhost:1", with_token("two\nlines")).await;
    assert_eq!(expect(connect, ErrorReason::UnsupportedValue).field, "token");
    let connect = Client::connect("no target").await;
    assert_eq!(expect(connect, ErrorReason::UnsupportedValue).field, "target");
}

#[tokio::test]
async fn tokens() {
    let folder = Folder::new();
    let tokens = folder.path("tokens.toml");
    let arguments = ["-m", "optserve_server", "token", "--namespace=alice", "--name=test", "--tokens-file", &tokens];
    let output = String::from_utf8(python().args(arguments).output().unwrap().stdout).unwrap();
    let token = output.split_whitespace().find(|word| word.len() > 20).unwrap();
    let server = Server::start(&[&format!("--tokens-file={tokens}")]);
    let client = Client::connect_with(&server.address, with_token("wrong")).await.unwrap();
    let error = expect(client.session("sessions/x").await, ErrorReason::Unauthenticated);
    assert_eq!(error.code, Code::Unauthenticated);
    let client = Client::connect_with(&server.address, with_token(token)).await.unwrap();
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
}

#[tokio::test]
async fn tls_and_mutual_tls() {
    let program = "
import sys
from pathlib import Path
from tests.support.certificates import Authority
folder, authority = Path(sys.argv[1]), Authority()
(folder / 'ca.pem').write_bytes(authority.pem)
authority.pair().write(folder, 'pair')
";
    let folder = Folder::new();
    assert!(python().args(["-c", program]).arg(&folder.0).status().unwrap().success());
    let [authority, certificate, key] = ["ca.pem", "pair.pem", "pair.key"].map(|name| folder.path(name));
    let pair = [format!("--tls-certificate={certificate}"), format!("--tls-key={key}")];
    let server = Server::start(&[&pair[0], &pair[1]]);
    let trusting = Settings { ca_file: Some(authority.clone().into()), ..brief() };
    let client = Client::connect_with(&server.address, Settings { timeout: MINUTE, ..trusting.clone() }).await.unwrap();
    let mut over_tls = session(&client, sgd(1.0), &[0.0_f64]).await;
    over_tls.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
    let untrusting = Client::connect_with(&server.address, Settings { tls: true, ..brief() }).await.unwrap();
    assert_eq!(untrusting.call(v1::GetCapabilitiesRequest {}).await.unwrap_err().code, Code::Unavailable);

    let server = Server::start(&[&pair[0], &pair[1], &format!("--tls-client-ca={authority}")]);
    let anonymous = Client::connect_with(&server.address, trusting.clone()).await.unwrap();
    assert_eq!(anonymous.call(v1::GetCapabilitiesRequest {}).await.unwrap_err().code, Code::Unavailable);
    let identity_files = Some((certificate.into(), key.into()));
    let settings = Settings { identity_files, timeout: MINUTE, ..trusting };
    let client = Client::connect_with(&server.address, settings).await.unwrap();
    let mut session = session(&client, sgd(1.0), &[0.0_f64]).await;
    session.step(Step::new([("w", &[1.0_f64])])).await.unwrap();
}
