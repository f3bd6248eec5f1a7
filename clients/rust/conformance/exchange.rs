//! Measurements of steps, and of exchanges of the same bytes by gRPC alone.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use optserve::v1::AdamSpec;
use optserve::{Client, Session, Step};
use tokio::sync::mpsc;
use tonic::codec::Streaming;
use tonic::transport::Channel;

use crate::Failure;
use crate::wire::driver_response::Outcome;
use crate::wire::echo_service_client::EchoServiceClient;
use crate::wire::{self, ExchangeRequest, ExchangeResponse, Way};

/// What earlier measurements have opened, by elements, way and target.
#[derive(Default)]
pub struct Timing {
    opened: HashMap<(i64, i32, String), Subject>,
}

enum Subject {
    Steps { session: Box<Session>, gradient: Vec<f32>, parameters: Vec<f32> },
    Echo(Box<Echo>),
}

impl Timing {
    /// Measures repeats, one after the other.
    pub async fn time(&mut self, call: wire::TimeCall) -> Result<Outcome, Failure> {
        let way = call.way();
        if !matches!(way, Way::Stream | Way::Handle | Way::Echo) {
            return Ok(Outcome::Unsupported(way.as_str_name().to_owned()));
        }
        let key = (call.elements, call.way, call.target.clone());
        let mut subject = match self.opened.remove(&key) {
            Some(subject) => subject,
            None => open(&call).await?,
        };
        let seconds = match &mut subject {
            Subject::Echo(echo) => echo.exchange(call.repeats).await?,
            Subject::Steps { session, gradient, parameters } => {
                take(session, gradient, parameters, call.repeats, way).await?
            }
        };
        self.opened.insert(key, subject);
        Ok(Outcome::Time(wire::TimeAnswer { seconds: seconds.as_secs_f64(), peak_bytes: peak_bytes() }))
    }
}

async fn open(call: &wire::TimeCall) -> Result<Subject, Failure> {
    let count = usize::try_from(call.elements).unwrap_or_default();
    if call.way() == Way::Echo {
        return Ok(Subject::Echo(Box::new(Echo::open(call).await?)));
    }
    let client = Client::connect(&call.target).await?;
    let (gradient, parameters) = (vec![0.5; count], vec![0.0; count]);
    let session = client.create_session(AdamSpec::default(), [optserve::value("w", &parameters)]).await?;
    let mut subject = Subject::Steps { session: Box::new(session), gradient, parameters };
    if let Subject::Steps { session, gradient, parameters } = &mut subject {
        take(session, gradient, parameters, 1, call.way()).await?; // opens the stream
    }
    Ok(subject)
}

async fn take(
    session: &mut Session,
    gradient: &[f32],
    parameters: &mut [f32],
    repeats: i32,
    way: Way,
) -> Result<Duration, Failure> {
    let begin = Instant::now();
    if way == Way::Handle {
        for _ in 0..repeats {
            session.step_into(Step::new([("w", gradient)]), [("w", &mut *parameters)]).await?;
        }
    } else {
        let mut stream = session.stream(1)?;
        for _ in 0..repeats {
            stream.submit(Step::new([("w", gradient)]).pull()).await?;
            stream.result_into([("w", &mut *parameters)]).await?;
        }
    }
    Ok(begin.elapsed())
}

/// A stream of EchoService.
struct Echo {
    requests: mpsc::Sender<ExchangeRequest>,
    responses: Streaming<ExchangeResponse>,
    data: Bytes,
    chunk: usize,
}

impl Echo {
    async fn open(call: &wire::TimeCall) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::Failed(error.to_string());
        let endpoint = Channel::from_shared(format!("http://{}", call.target)).map_err(|e| failed(&e))?;
        let channel = endpoint.connect().await.map_err(|e| failed(&e))?;
        let mut client =
            EchoServiceClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let (requests, source) = mpsc::channel(1);
        let byte_count = 4 * call.elements;
        let first = ExchangeRequest { byte_count, data: Bytes::new() };
        requests.try_send(first).map_err(|e| failed(&e))?;
        let chunk = usize::try_from(call.chunk_bytes).unwrap_or_default().max(1);
        let data = Bytes::from(vec![1; usize::try_from(byte_count).unwrap_or_default()]);
        // The server answers with the first exchange, which is not measured.
        let opening = client.exchange(Requests(source));
        let sending = send(&requests, &data, chunk);
        let (response, ()) = tokio::join!(opening, sending);
        let responses = response.map_err(|e| failed(&e))?.into_inner();
        let mut echo = Self { requests, responses, data, chunk };
        echo.receive().await?;
        Ok(echo)
    }

    async fn exchange(&mut self, repeats: i32) -> Result<Duration, Failure> {
        let begin = Instant::now();
        for _ in 0..repeats {
            send(&self.requests, &self.data, self.chunk).await;
            self.receive().await?;
        }
        Ok(begin.elapsed())
    }

    async fn receive(&mut self) -> Result<(), Failure> {
        let mut received = 0;
        while received < self.data.len() {
            let response = self.responses.message().await.map_err(|e| Failure::Failed(e.to_string()))?;
            let response = response.ok_or_else(|| Failure::Failed("the exchange ended".to_owned()))?;
            received += response.data.len();
        }
        Ok(())
    }
}

/// Sends the bytes of an exchange; what goes wrong is found by `receive`.
async fn send(requests: &mpsc::Sender<ExchangeRequest>, data: &Bytes, chunk: usize) {
    for begin in (0..data.len()).step_by(chunk) {
        let data = data.slice(begin..data.len().min(begin + chunk));
        if requests.send(ExchangeRequest { byte_count: 0, data }).await.is_err() {
            return;
        }
    }
}

/// Requests of a call.
struct Requests(mpsc::Receiver<ExchangeRequest>);

impl tonic::codegen::tokio_stream::Stream for Requests {
    type Item = ExchangeRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<ExchangeRequest>> {
        self.0.poll_recv(context)
    }
}

/// The largest resident set of the process so far; 0 where the system does not say.
fn peak_bytes() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<i64>().ok());
    kilobytes.unwrap_or_default() * 1024
}
