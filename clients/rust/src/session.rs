//! The handle of a session.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::call::Inbox;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::layout::{Layout, Targets};
use crate::payload::{Payload, frame};
use crate::reception::Reception;
use crate::retry::Retry;
use crate::step::{Step, StepResult};
use crate::stream::{StepStream, Worker};
use crate::tensor::{Tensor, TensorMut, Tensors};
use crate::v1::{self, DataType, parameter_init::Source};

/// Values of more bytes are uploaded after the session is created.
const INLINE_BYTES: usize = 1 << 20;

/// A parameter with its initial value, float32 or float64.
pub fn value<'a>(name: &str, value: impl Into<Tensor<'a>>) -> v1::ParameterInit {
    v1::ParameterInit { name: name.to_owned(), source: Some(Source::Value(value.into().into())) }
}

/// A float32 parameter whose initial value the server computes.
pub fn initialized(name: &str, shape: &[i64], spec: impl Into<v1::InitializerSpec>) -> v1::ParameterInit {
    let (dtype, spec) = (DataType::Float32.into(), Some(spec.into()));
    let initializer = v1::InitializedTensor { dtype, shape: shape.to_vec(), spec };
    v1::ParameterInit { name: name.to_owned(), source: Some(Source::Initializer(initializer)) }
}

/// Parameters that were read.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The values, without those that were received in the caller's arrays.
    pub tensors: Tensors,
    /// The step that they belong to.
    pub step: i64,
    /// Whether there are values; false only with `if_newer_than_step`.
    pub is_modified: bool,
}

/// A handle of a session on the server.
///
/// A handle is a worker: it numbers its steps, each of which is applied once, also if the connection is lost
/// and the step is sent again. It keeps a call open for them. Futures of a handle may be dropped at any time;
/// a step whose future was dropped may have been applied, and the same step again settles it.
pub struct Session {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) worker: Worker,
    /// The step of the parameters that were received last, at which a member computes its gradient.
    pub(crate) received: AtomicI64,
}

impl Client {
    /// Creates a session with parameters from [`value`] and [`initialized`].
    pub async fn create_session(
        &self,
        spec: impl Into<v1::SessionSpec>,
        parameters: impl IntoIterator<Item = v1::ParameterInit>,
    ) -> Result<Session> {
        let (spec, parameters) = (Some(spec.into()), parameters.into_iter().collect());
        self.create_session_as("", v1::CreateSessionRequest { spec, parameters, ..Default::default() }).await
    }

    /// Creates a session from a request; the handle's worker has a random name if `worker` is empty. Values of more than 1 MiB in all are uploaded after the session is created;
    /// if that fails, it is deleted.
    pub async fn create_session_as(&self, worker: &str, mut request: v1::CreateSessionRequest) -> Result<Session> {
        let bytes_of = |parameter: &v1::ParameterInit| match &parameter.source {
            Some(Source::Value(value)) => value.data.len(),
            _ => 0,
        };
        let mut uploads = Tensors::new();
        if request.parameters.iter().map(bytes_of).sum::<usize>() > INLINE_BYTES {
            for v1::ParameterInit { name, source } in &mut request.parameters {
                if let Some(Source::Value(value)) = source {
                    let (dtype, shape) = (value.dtype, value.shape.clone());
                    uploads.insert(name.clone(), Tensor::of_message(std::mem::take(value)));
                    *source = Some(Source::Upload(v1::TensorShape { dtype, shape }));
                }
            }
        }
        let session = Session::new(self, self.call(request).await?.session, worker, 1)?;
        if !uploads.is_empty()
            && let Err(error) = session.push(&uploads, v1::PushHeader::default()).await
        {
            let _ = session.delete().await; // the first error is the cause
            return Err(error);
        }
        Ok(session)
    }

    /// A handle of an existing session, by its name `sessions/{id}`.
    pub async fn session(&self, name: &str) -> Result<Session> {
        self.session_as(name, "").await
    }

    /// A handle of an existing session whose worker has a name. A name that has taken steps before, in this
    /// program or an earlier one, continues with its next sequence. Two handles must not use one name at the
    /// same time.
    pub async fn session_as(&self, name: &str, worker: &str) -> Result<Session> {
        let request = v1::GetSessionRequest { name: name.to_owned(), worker: worker.to_owned() };
        let answer = self.call(request).await?;
        Session::new(self, answer.session, worker, answer.next_sequence.max(1))
    }
}

impl Session {
    pub(crate) fn new(client: &Client, found: Option<v1::Session>, worker: &str, next: u64) -> Result<Self> {
        let found = found.ok_or_else(|| Error::malformed("has no session"))?;
        let worker = if worker.is_empty() { random_name() } else { worker.to_owned() };
        Ok(Self {
            client: client.clone(),
            name: found.name,
            layout: Layout::new(found.layout),
            worker: Worker::new(worker, next),
            received: AtomicI64::new(found.step),
        })
    }

    /// The resource name, `sessions/{id}`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensors in the order of their bytes.
    pub fn layout(&self) -> &[v1::TensorLayout] {
        &self.layout.tensors
    }

    /// The name of the handle's worker.
    pub fn worker(&self) -> &str {
        &self.worker.name
    }

    /// Takes a step of any size and waits for its result.
    ///
    /// If it fails with [`Applied::Unknown`](crate::Applied::Unknown), a step with the same gradients and
    /// options settles whether it was applied, and applies it once.
    pub async fn step(&mut self, step: Step<'_>) -> Result<StepResult> {
        self.take_step(step, Targets::new()).await
    }

    /// As [`Session::step`]; fills arrays with the parameters after the step. After an error they may hold a
    /// part of the new values.
    pub async fn step_into<'t, K: Into<String>, V: Into<TensorMut<'t>>>(
        &mut self,
        step: Step<'_>,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<StepResult> {
        let targets = self.layout.targets(into)?;
        self.take_step(step.pull(), targets).await
    }

    async fn take_step(&mut self, step: Step<'_>, mut into: Targets<'_>) -> Result<StepResult> {
        let mut stream = StepStream::new(self, 1)?;
        stream.enqueue(step)?;
        Ok(stream.settle(&mut into).await?.expect("there is a step"))
    }

    /// A stream of steps of the handle's worker, of which `window` may be in flight, from 1 to 64.
    pub fn stream(&mut self, window: usize) -> Result<StepStream<'_>> {
        StepStream::new(self, window)
    }

    /// Reads the parameters that a request selects; `Default::default()` is all of them. Its name is the
    /// client's. With `newer_than_step` it waits until its deadline.
    pub async fn pull(&self, request: v1::PullParametersRequest) -> Result<Parameters> {
        self.read(request, Targets::new()).await
    }

    /// As [`Session::pull`]; fills arrays. After an error they may hold a part of the values.
    pub async fn pull_into<'t, K: Into<String>, V: Into<TensorMut<'t>>>(
        &self,
        request: v1::PullParametersRequest,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Parameters> {
        self.read(request, self.layout.targets(into)?).await
    }

    async fn read(&self, mut request: v1::PullParametersRequest, mut into: Targets<'_>) -> Result<Parameters> {
        request.name.clone_from(&self.name);
        let mut retry = Retry::new(self.client.timeout, self.layout.byte_count);
        loop {
            let inbox = self.client.request(&request, retry.remaining());
            match retry.bound(receive_parameters(inbox, &mut into)).await {
                Ok(parameters) => {
                    if parameters.is_modified {
                        self.received.store(parameters.step, Ordering::Relaxed);
                    }
                    return Ok(parameters);
                }
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    /// Writes parameters: all given ones, or none. The header has options: `expected_step`, `wire_dtype` and
    /// `reset_state`; its other fields are the client's.
    pub async fn push<'a, K: Into<String>, V: Into<Tensor<'a>>>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
        mut header: v1::PushHeader,
    ) -> Result<v1::Session> {
        let values = values.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let sorted = self.layout.sort(values)?;
        header.tensors = sorted.iter().map(|(position, _)| self.layout.tensors[*position].name.clone()).collect();
        let payload = Payload::new(&self.layout, sorted, header.wire_dtype())?;
        (header.name, header.request_id) = (self.name.clone(), random_name());
        header.byte_count = payload.byte_count as u64;
        let head = frame(&v1::PushParametersRequest { header: Some(header), chunk: None });
        let answer = self.client.upload::<v1::PushParametersRequest>(head, &payload).await?;
        Ok(answer.session.unwrap_or_default())
    }

    /// Watches the session's events, first its current state, until it is deleted.
    pub fn watch(&self) -> Events {
        Events(self.client.request(&v1::WatchSessionRequest { name: self.name.clone() }, None))
    }

    /// Ends the handle's call as the server expects it; dropping the handle cancels it. The session stays on
    /// the server.
    pub async fn close(mut self) {
        self.worker.close().await;
    }

    /// Deletes the session and everything it holds.
    pub async fn delete(mut self) -> Result<()> {
        self.worker.close().await;
        self.client.call(v1::DeleteSessionRequest { name: self.name, ..Default::default() }).await?;
        Ok(())
    }
}

/// Events of a session; see [`Session::watch`].
pub struct Events(Inbox<v1::WatchSessionResponse>);

impl Events {
    /// The next event; `None` after the session was deleted. Watch again if the connection was lost.
    pub async fn next(&mut self) -> Result<Option<v1::WatchSessionResponse>> {
        self.0.next().await
    }
}

async fn receive_parameters(
    mut inbox: Inbox<v1::PullParametersResponse>,
    into: &mut Targets<'_>,
) -> Result<Parameters> {
    let v1::PullParametersResponse { header, mut chunk } = inbox.expect().await?;
    let header = header.ok_or_else(|| Error::malformed("has no header"))?;
    let layout = v1::ByteLayout { tensors: header.layout, byte_count: header.byte_count };
    let mut reception = Reception::new(&layout, into)?;
    while !reception.is_complete() && !header.not_modified {
        match chunk.take() {
            Some(chunk) => reception.add(&chunk)?,
            None => chunk = inbox.expect().await?.chunk,
        }
    }
    inbox.next().await?; // the end, without which the call would look cancelled
    let is_modified = !header.not_modified;
    Ok(Parameters { tensors: reception.into_tensors(), step: header.step, is_modified })
}

pub(crate) fn random_name() -> String {
    format!("{:032x}", u128::from_le_bytes(crate::random()))
}
