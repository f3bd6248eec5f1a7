//! The handle of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::call::{self, Inbox};
use crate::client::{Client, call};
use crate::error::{Error, Result};
use crate::layout::{Layout, Targets};
use crate::payload::{Cursor, Payload, frame, put_chunk};
use crate::reception::Reception;
use crate::retry::Retry;
use crate::step::{Step, StepResult};
use crate::stream::{StepStream, Worker};
use crate::tensor::{Tensor, TensorMut, TensorView, Tensors, extents_of};
use crate::v1::{self, DataType, parameter_init::Source};

/// Values of more bytes are uploaded after the session is created.
const INLINE_BYTES: usize = 1 << 20;

/// A parameter with its initial value, float32 or float64.
pub fn value<'a>(name: impl Into<String>, value: impl Into<TensorView<'a>>) -> v1::ParameterInit {
    v1::ParameterInit { name: name.into(), source: Some(Source::Value(value.into().into())) }
}

/// A float32 parameter whose initial value the server computes.
pub fn initialized(name: impl Into<String>, shape: &[usize], spec: impl Into<v1::InitializerSpec>) -> v1::ParameterInit {
    let spec = Some(spec.into());
    let initializer = v1::InitializedTensor { dtype: DataType::Float32.into(), shape: extents_of(shape), spec };
    v1::ParameterInit { name: name.into(), source: Some(Source::Initializer(initializer)) }
}

/// Options of a new session.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Last part of the session's name; chosen by the server if empty.
    pub id: String,
    /// Seed of the initializers.
    pub seed: u64,
    /// Name of the handle's worker; a random one if empty.
    pub worker: String,
}

/// Options of a change of a session.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// The step that the session must have.
    pub expected_step: Option<i64>,
    /// Names the change, so that another process can repeat it; a random id if unset.
    pub request_id: Option<String>,
}

/// Options of [`Session::push`].
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Whether the optimizer state of the tensors is initialized.
    pub reset_state: bool,
    /// Element type on the wire; each tensor's own if unspecified.
    pub wire_dtype: DataType,
    /// Options of every change.
    pub change: Change,
}

/// Options of [`Session::pull`].
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Tensors, point and element type; all parameters in their own types by default.
    pub parameters: v1::PullOptions,
    /// Reads no values unless the session's step is greater.
    pub if_newer_than: Option<i64>,
    /// Waits until the session's step is greater, at most until the deadline.
    pub newer_than: Option<i64>,
    /// Bounds the call; the client's bound by default.
    pub timeout: Option<Duration>,
}

/// Parameters that were read.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The values, without those that were received in the caller's arrays.
    pub tensors: Tensors,
    /// The step that they belong to.
    pub step: i64,
    /// Whether there are values; false only with `if_newer_than`.
    pub is_modified: bool,
}

/// A handle of a session on the server.
///
/// A handle is a worker: it numbers its steps, each of which is applied once, also if the connection is
/// lost and the step is sent again. It keeps a call open for them. Futures of a handle may be dropped at
/// any time; a step whose future was dropped may have been applied, and the same step again settles it.
pub struct Session {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) layout: Arc<Layout>,
    pub(crate) worker: Worker,
    /// The step of the parameters that were received last, at which a member computes its gradient.
    pub(crate) received_step: AtomicI64,
}

impl Client {
    /// Creates a session with parameters from [`value`] and [`initialized`].
    ///
    /// # Errors
    /// If the call fails.
    pub async fn create_session(
        &self,
        spec: impl Into<v1::SessionSpec>,
        parameters: impl IntoIterator<Item = v1::ParameterInit>,
    ) -> Result<Session> {
        self.create_session_with(spec, parameters, SessionOptions::default()).await
    }

    /// As [`Client::create_session`], with options. Values of more than 1 MiB in all are uploaded after
    /// the session is created; if that fails, the session is deleted.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn create_session_with(
        &self,
        spec: impl Into<v1::SessionSpec>,
        parameters: impl IntoIterator<Item = v1::ParameterInit>,
        options: SessionOptions,
    ) -> Result<Session> {
        let mut parameters: Vec<_> = parameters.into_iter().collect();
        let byte_count: usize = parameters.iter().map(|parameter| match &parameter.source {
            Some(Source::Value(value)) => value.data.len(),
            _ => 0,
        }).sum();
        let mut uploads = Tensors::new();
        for parameter in parameters.iter_mut().filter(|_| byte_count > INLINE_BYTES) {
            if let Some(Source::Value(value)) = parameter.source.take_if(|source| matches!(source, Source::Value(_))) {
                let (dtype, shape) = (value.dtype, value.shape.clone());
                uploads.insert(parameter.name.clone(), Tensor::try_from(value)?);
                parameter.source = Some(Source::Upload(v1::TensorShape { dtype, shape }));
            }
        }
        let SessionOptions { id: session_id, seed, worker } = options;
        let spec = Some(spec.into());
        let request = v1::CreateSessionRequest { request_id: request_id(), session_id, spec, parameters, seed };
        let answer = call!(self, session_service.create_session(request))?;
        let worker = Worker::new(if worker.is_empty() { request_id() } else { worker }, 1);
        let session = Session::new(self, answer.session, worker)?;
        if !uploads.is_empty() {
            if let Err(error) = session.push(uploads, PushOptions::default()).await {
                let _ = session.delete().await; // the first error is the cause
                return Err(error);
            }
        }
        Ok(session)
    }

    /// A handle of an existing session, by its name `sessions/{id}` or its id.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn session(&self, name: &str) -> Result<Session> {
        let answer = self.get(name, "").await?;
        Session::new(self, answer.session, Worker::new(request_id(), 1))
    }

    /// A handle of an existing session whose worker has a name. A name that has taken steps before, in
    /// this program or an earlier one, goes on with its next sequence. Two handles must not use one name
    /// at the same time.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn session_as(&self, name: &str, worker: &str) -> Result<Session> {
        let answer = self.get(name, worker).await?;
        Session::new(self, answer.session, Worker::new(worker.to_owned(), answer.next_sequence))
    }

    async fn get(&self, name: &str, worker: &str) -> Result<v1::GetSessionResponse> {
        let name = if name.starts_with("sessions/") { name.to_owned() } else { format!("sessions/{name}") };
        call!(self, session_service.get_session(v1::GetSessionRequest { name, worker: worker.to_owned() }))
    }

    /// All sessions of the server, in the order of their names.
    ///
    /// # Errors
    /// If a call fails.
    pub async fn sessions(&self) -> Result<Vec<v1::Session>> {
        let (mut sessions, mut request) = (Vec::new(), v1::ListSessionsRequest::default());
        loop {
            let page = call!(self, session_service.list_sessions(request.clone()))?;
            sessions.extend(page.sessions);
            if page.next_page_token.is_empty() {
                return Ok(sessions);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Sends a header and a payload; the answer of the call.
    async fn send_payload<A: Message + Default + Send + 'static>(
        &self,
        path: &'static str,
        header: Bytes,
        payload: &Payload<'_>,
    ) -> Result<A> {
        let mut retry = Retry::new(self.timeout(), payload.byte_count as u64);
        loop {
            let (outbox, mut inbox) = call::open(self, path, retry.remaining());
            let mut cursor = Cursor::default();
            let chunks = std::iter::from_fn(|| {
                (cursor.offset < payload.byte_count).then(|| {
                    let mut buffer = BytesMut::new();
                    // The chunk is the second field of every request that has one.
                    put_chunk(&mut buffer, &(), 2, payload, &mut cursor);
                    buffer.freeze()
                })
            });
            let buffers = std::iter::once(header.clone()).chain(chunks);
            let attempt = async {
                tokio::select! {
                    biased;
                    answer = inbox.expect() => answer,
                    never = call::send_all(outbox, buffers) => match never {},
                }
            };
            match retry.bound(attempt).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.pause(error).await?,
            }
        }
    }
}

impl Session {
    pub(crate) fn new(client: &Client, description: Option<v1::Session>, worker: Worker) -> Result<Self> {
        let description = description.ok_or_else(|| Error::malformed("has no session"))?;
        Ok(Self {
            client: client.clone(),
            name: description.name,
            layout: Arc::new(Layout::new(description.layout)),
            worker,
            received_step: AtomicI64::new(description.step),
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

    /// Bounds the calls of this handle; see [`crate::Builder::timeout`].
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.client = self.client.with_timeout(timeout);
    }

    /// Reads the session's description.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn get(&self) -> Result<v1::Session> {
        let answer = self.client.get(&self.name, "").await?;
        answer.session.ok_or_else(|| Error::malformed("has no session"))
    }

    /// Takes a step of any size and waits for its result.
    ///
    /// # Errors
    /// If the step was rejected, or its result is not known at the deadline. [`Error::applied`] is then
    /// `Unknown`, and a step with the same gradients and options settles whether it was applied, and
    /// applies it once.
    pub async fn step(&mut self, step: Step<'_>) -> Result<StepResult> {
        self.take_step(step, Targets::new()).await
    }

    /// As [`Session::step`]; fills arrays with the parameters after the step. After an error they may
    /// hold a part of the new values.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub async fn step_into<'t, K, V>(
        &mut self,
        step: Step<'_>,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<StepResult>
    where
        K: Into<String>,
        V: Into<TensorMut<'t>>,
    {
        let targets = self.layout.targets(into)?;
        self.take_step(step.pull_by_default(), targets).await
    }

    async fn take_step(&mut self, step: Step<'_>, mut into: Targets<'_>) -> Result<StepResult> {
        let mut stream = StepStream::new(self, 1)?;
        stream.enqueue(step)?;
        Ok(stream.advance(&mut into).await?.expect("there is a step"))
    }

    /// A stream of steps with at most `window` of them in flight, from 1 to 64. They are steps of the
    /// handle's worker.
    ///
    /// # Errors
    /// If the window is out of range.
    pub fn stream(&mut self, window: usize) -> Result<StepStream<'_>> {
        StepStream::new(self, window)
    }

    /// Reads parameters.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn pull(&self, options: PullOptions) -> Result<Parameters> {
        self.read(options, Targets::new()).await
    }

    /// As [`Session::pull`]; fills arrays. After an error they may hold a part of the values.
    ///
    /// # Errors
    /// As [`Session::pull`].
    pub async fn pull_into<'t, K, V>(
        &self,
        options: PullOptions,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Parameters>
    where
        K: Into<String>,
        V: Into<TensorMut<'t>>,
    {
        self.read(options, self.layout.targets(into)?).await
    }

    async fn read(&self, options: PullOptions, mut into: Targets<'_>) -> Result<Parameters> {
        let request = v1::PullParametersRequest {
            name: self.name.clone(),
            pull: Some(options.parameters),
            if_newer_than_step: options.if_newer_than,
            newer_than_step: options.newer_than,
        };
        let mut retry = match options.timeout {
            Some(timeout) => Retry::new(timeout, 0),
            None => Retry::new(self.client.timeout(), self.layout.byte_count),
        };
        loop {
            let (outbox, inbox) = call::open(&self.client, "/optserve.v1.SessionService/PullParameters", retry.remaining());
            // There is space for one buffer.
            let _ = outbox.try_send(frame(&request));
            drop(outbox);
            match retry.bound(receive_parameters(inbox, &mut into)).await {
                Ok(parameters) => {
                    if parameters.is_modified {
                        self.received_step.store(parameters.step, Ordering::Relaxed);
                    }
                    return Ok(parameters);
                }
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    /// Writes parameters: all given ones, or none.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn push<'a, K, V>(
        &self,
        values: impl IntoIterator<Item = (K, V)>,
        options: PushOptions,
    ) -> Result<v1::Session>
    where
        K: Into<String>,
        V: Into<TensorView<'a>>,
    {
        let values = values.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let sorted = self.layout.sort(values)?;
        let name_of = |position: usize| self.layout.tensors[position].name.clone();
        let tensors = sorted.iter().map(|(position, _)| name_of(*position)).collect();
        let payload = Payload::new(&self.layout, sorted, options.wire_dtype)?;
        let header = v1::PushHeader {
            name: self.name.clone(),
            request_id: options.change.request_id.unwrap_or_else(request_id),
            expected_step: options.change.expected_step,
            tensors,
            wire_dtype: options.wire_dtype.into(),
            reset_state: options.reset_state,
            byte_count: payload.byte_count as u64,
        };
        let header = frame(&v1::PushParametersRequest { header: Some(header), chunk: None });
        let path = "/optserve.v1.SessionService/PushParameters";
        let answer: v1::PushParametersResponse = self.client.send_payload(path, header, &payload).await?;
        answer.session.ok_or_else(|| Error::malformed("has no session"))
    }

    /// Reports metrics of the current model by name, such as the loss on a validation set.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn report_metrics<K: Into<String>>(
        &self,
        metrics: impl IntoIterator<Item = (K, f64)>,
        change: Change,
    ) -> Result<v1::ReportMetricsResponse> {
        let metrics =
            metrics.into_iter().map(|(name, value)| v1::Metric { name: name.into(), value: Some(value) }).collect();
        let request = v1::ReportMetricsRequest {
            name: self.name.clone(),
            request_id: change.request_id.unwrap_or_else(request_id),
            metrics,
            expected_step: change.expected_step,
        };
        call!(self.client, session_service.report_metrics(request))
    }

    /// Replaces the specification between two steps. The answer says which state was carried over.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn update(&self, spec: impl Into<v1::SessionSpec>, change: Change) -> Result<v1::UpdateSessionResponse> {
        let request = v1::UpdateSessionRequest {
            name: self.name.clone(),
            request_id: change.request_id.unwrap_or_else(request_id),
            spec: Some(spec.into()),
            expected_step: change.expected_step,
        };
        call!(self.client, session_service.update_session(request))
    }

    /// Watches the session's events, first its current state, until it is deleted.
    pub fn watch(&self) -> Events {
        let (outbox, inbox) = call::open(&self.client, "/optserve.v1.SessionService/WatchSession", None);
        // There is space for one buffer.
        let _ = outbox.try_send(frame(&v1::WatchSessionRequest { name: self.name.clone() }));
        Events(inbox)
    }

    /// Ends the handle's call, as the server expects it; dropping the handle cancels it. The session
    /// stays on the server.
    pub async fn close(mut self) {
        self.worker.close().await;
    }

    /// Deletes the session and everything it holds.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn delete(mut self) -> Result<()> {
        self.worker.close().await;
        let request = v1::DeleteSessionRequest { name: self.name.clone(), request_id: request_id() };
        call!(self.client, session_service.delete_session(request))?;
        Ok(())
    }
}

async fn receive_parameters(
    mut inbox: Inbox<v1::PullParametersResponse>,
    into: &mut Targets<'_>,
) -> Result<Parameters> {
    let v1::PullParametersResponse { header, mut chunk } = inbox.expect().await?;
    let header = header.ok_or_else(|| Error::malformed("has no header"))?;
    let mut parameters =
        Parameters { tensors: Tensors::new(), step: header.step, is_modified: !header.not_modified };
    if parameters.is_modified {
        let mut reception = Reception::new(&header.layout, header.byte_count, into)?;
        while !reception.is_complete() {
            match chunk.take() {
                Some(chunk) => reception.add(&chunk)?,
                None => chunk = inbox.expect().await?.chunk,
            }
        }
        parameters.tensors = reception.into_tensors();
    }
    Ok(parameters)
}

/// Events of a session; see [`Session::watch`].
pub struct Events(Inbox<v1::WatchSessionResponse>);

impl Events {
    /// The next event; `None` after the session was deleted.
    ///
    /// # Errors
    /// If the session does not exist, or the connection was lost; watch again.
    pub async fn next(&mut self) -> Result<Option<v1::WatchSessionResponse>> {
        self.0.next().await
    }
}

/// A random name.
pub(crate) fn request_id() -> String {
    format!("{:032x}", u128::from_le_bytes(crate::random()))
}
