//! The steps of a worker: numbers, repeats, and several steps in flight.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::call::{Inbox, Outbox};
use crate::client::Client;
use crate::error::{Applied, Error, Result};
use crate::layout::Targets;
use crate::payload::{CHUNK_BYTES, Cursor, put_chunk, put_message};
use crate::reception::Reception;
use crate::retry::Retry;
use crate::session::Session;
use crate::step::{PreparedStep, Step, StepResult};
use crate::tensor::TensorMut;
use crate::v1::{self, ErrorReason};

/// Field of `StepStreamRequest` that has the chunk.
const CHUNK_FIELD: u32 = 4;
/// Results that a server stores of each worker.
const MAX_WINDOW: usize = 64;
/// Time for a server to end a call on which nothing more is sent.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The worker of a handle.
pub(crate) struct Worker {
    pub(crate) name: String,
    /// Of its membership; 0 if it is no member.
    pub(crate) epoch: u64,
    /// Sequence of the oldest step without a result, or of the next one.
    pub(crate) next: u64,
    /// Whether a step that was given up may have been applied under that sequence.
    pub(crate) is_unsettled: bool,
    call: Option<StepCall>,
}

impl Worker {
    pub(crate) fn new(name: String, next: u64) -> Self {
        Self { name, epoch: 0, next, is_unsettled: false, call: None }
    }

    /// Begins a membership, or ends it with epoch 0.
    pub(crate) fn enter(&mut self, epoch: u64, next: u64) {
        *self = Self { epoch, ..Self::new(std::mem::take(&mut self.name), next) };
    }

    /// Ends the call, so that the server does not see it as cancelled.
    pub(crate) async fn close(&mut self) {
        if let Some(StepCall { sender, mut receiver }) = self.call.take() {
            drop(sender);
            let _ = timeout(CLOSE_TIMEOUT, receiver.inbox.next()).await; // any end will do
        }
    }
}

/// Takes the steps of a handle with several of them in flight: they are applied in the order in which
/// they were submitted, each once, and their results have the same order.
///
/// When the connection is lost, the stream connects again and repeats the steps without a result.
/// After a step that fails, those behind it are abandoned, and the stream can be used further. Bytes
/// are sent while one of its methods is awaited; futures of a stream may be dropped at any time.
pub struct StepStream<'a> {
    session: &'a mut Session,
    window: usize,
    waiting: VecDeque<PreparedStep<'a>>,
    /// Errors of steps behind one that failed, until they are reported.
    abandoned: Vec<Error>,
}

impl<'a> StepStream<'a> {
    pub(crate) fn new(session: &'a mut Session, window: usize) -> Result<Self> {
        if !(1..=MAX_WINDOW).contains(&window) {
            let message = format!("the window is {window}, but must be from 1 to {MAX_WINDOW}");
            return Err(Error::invalid(ErrorReason::OutOfRange, "window", message));
        }
        Ok(Self { session, window, waiting: VecDeque::new(), abandoned: Vec::new() })
    }

    /// The session, for calls between steps.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// Number of steps without a result.
    pub fn pending(&self) -> usize {
        self.waiting.len() + self.abandoned.len()
    }

    /// Whether the window is full: the next submission has to follow a result.
    pub fn is_full(&self) -> bool {
        self.pending() >= self.window
    }

    /// Submits a step. It waits for no answer, and sends as much as the connection takes at once; fails if the
    /// window is full. Gradients that are slices stay borrowed; vectors can be moved here.
    pub async fn submit(&mut self, step: Step<'a>) -> Result<()> {
        self.enqueue(step)?;
        let Session { client, worker, .. } = &mut *self.session;
        let StepCall { sender, receiver } = worker.call.get_or_insert_with(|| StepCall::open(client));
        tokio::select! {
            biased;
            never = sender.send_all(&self.waiting, worker.next) => match never {},
            () = receiver.inbox.open() => {}
            () = tokio::task::yield_now() => {}
        }
        Ok(())
    }

    /// The result of the oldest step without one; `None` if there is none.
    ///
    /// If its deadline passes before its fate is known, the step stays pending, and this may be called again.
    pub async fn result(&mut self) -> Result<Option<StepResult>> {
        self.settle(&mut Targets::new()).await
    }

    /// As [`StepStream::result`]; fills arrays with the parameters that the step pulls. After an error they may
    /// hold a part of the new values.
    pub async fn result_into<'t, K: Into<String>, V: Into<TensorMut<'t>>>(
        &mut self,
        into: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Option<StepResult>> {
        let mut targets = self.session.layout.targets(into)?;
        self.settle(&mut targets).await
    }

    /// Checks a step and puts it behind the others.
    pub(crate) fn enqueue(&mut self, step: Step<'a>) -> Result<()> {
        if self.is_full() {
            let message = format!("{} steps are in flight; read a result first", self.window);
            return Err(Error::invalid(ErrorReason::OutOfRange, "window", message));
        }
        let Session { name, layout, worker, received, .. } = &*self.session;
        let common = v1::StepPlan {
            session: name.clone(),
            worker: worker.name.clone(),
            worker_epoch: worker.epoch,
            ..Default::default()
        };
        let received = (worker.epoch > 0).then(|| received.load(Ordering::Relaxed));
        self.waiting.push_back(step.prepare(layout, common, received)?);
        Ok(())
    }

    /// Settles the oldest step.
    pub(crate) async fn settle(&mut self, into: &mut Targets<'_>) -> Result<Option<StepResult>> {
        if let Some(error) = self.abandoned.pop() {
            return Err(error);
        }
        let Some(oldest) = self.waiting.front() else { return Ok(None) };
        let (is_numbered, pulls) = (oldest.is_numbered(), oldest.plan.pull.is_some());
        let received = if pulls { self.session.layout.byte_count } else { 0 };
        let transfer = oldest.payload.byte_count as u64 + received;
        let default = || Retry::new(self.session.client.timeout, transfer);
        let mut retry = oldest.timeout.map_or_else(default, |timeout| Retry::new(timeout, 0));
        loop {
            let Session { client, worker, received, .. } = &mut *self.session;
            // It is put back after the answer: a call that was left in the middle of one is of no use.
            let mut call = worker.call.take().unwrap_or_else(|| StepCall::open(client));
            let error = match retry.bound(call.exchange(&self.waiting, worker.next, into)).await {
                Ok(result) => {
                    worker.call = Some(call);
                    self.waiting.pop_front();
                    if is_numbered {
                        (worker.next, worker.is_unsettled) = (worker.next + 1, false);
                    }
                    if pulls {
                        received.store(result.parameters_step, Ordering::Relaxed);
                    }
                    return Ok(Some(result));
                }
                Err(error) => error,
            };
            drop(call);
            match error.expected_sequence() {
                Some(expected) if worker.is_unsettled && error.reason == ErrorReason::SequenceReused => {
                    // The step that was given up was applied, so this one is the next.
                    (worker.next, worker.is_unsettled) = (expected, false);
                }
                _ if error.is_repeatable() => retry.pause(error).await?,
                expected => {
                    worker.next = expected.unwrap_or(worker.next);
                    worker.is_unsettled |= is_numbered && error.applied == Applied::Unknown;
                    // The server applied none of the steps behind it.
                    self.abandoned = vec![Error::abandoned(&error); self.waiting.len() - 1];
                    self.waiting.clear();
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for StepStream<'_> {
    fn drop(&mut self) {
        if !self.waiting.is_empty() {
            let worker = &mut self.session.worker;
            worker.call = None;
            worker.is_unsettled = true;
        }
    }
}

/// One call of StepStream.
struct StepCall {
    sender: Sender,
    receiver: Receiver,
}

struct Sender {
    outbox: Outbox,
    /// The plan that was sent last.
    plan: Option<v1::StepPlan>,
    /// How many of the waiting steps have been sent, and how much of the next one.
    sent: usize,
    cursor: Cursor,
}

struct Receiver {
    inbox: Inbox<v1::StepStreamResponse>,
    /// Where the parameters of the next answer are.
    parameters: v1::ByteLayout,
}

impl StepCall {
    fn open(client: &Client) -> Self {
        let (outbox, inbox) = client.open::<v1::StepStreamRequest>(None);
        Self {
            sender: Sender { outbox, plan: None, sent: 0, cursor: Cursor::default() },
            receiver: Receiver { inbox, parameters: v1::ByteLayout::default() },
        }
    }

    /// Sends what is to be sent, until the answer to the oldest step has been read.
    async fn exchange(
        &mut self,
        waiting: &VecDeque<PreparedStep<'_>>,
        next: u64,
        into: &mut Targets<'_>,
    ) -> Result<StepResult> {
        let pulls = waiting[0].plan.pull.is_some();
        let result = tokio::select! {
            biased;
            result = self.receiver.receive(pulls, into) => result?,
            never = self.sender.send_all(waiting, next) => match never {},
        };
        self.sender.sent =
            self.sender.sent.checked_sub(1).ok_or_else(|| Error::malformed("came before its step was sent"))?;
        Ok(result)
    }
}

impl Sender {
    /// Sends the waiting steps that are not sent yet; never returns. May be cancelled without loss.
    async fn send_all(&mut self, waiting: &VecDeque<PreparedStep<'_>>, next: u64) -> Infallible {
        while self.sent < waiting.len() {
            if self.outbox.reserve().await.is_err() {
                break;
            }
            // There is no other sender, so the space is still free.
            let buffer = self.next_buffer(waiting, next);
            if self.outbox.try_send(buffer).is_err() {
                break;
            }
        }
        std::future::pending().await // only the answers say how the call ended
    }

    /// One chunk of a large step, or as many small steps as a chunk has space for.
    fn next_buffer(&mut self, waiting: &VecDeque<PreparedStep<'_>>, next: u64) -> Bytes {
        let mut buffer = BytesMut::new();
        while let Some(step) = waiting.get(self.sent) {
            if !buffer.is_empty() && buffer.len() + step.payload.next_len(&self.cursor) > CHUNK_BYTES {
                break;
            }
            let mut head = v1::StepStreamRequest::default();
            if self.cursor.offset == 0 {
                if self.plan.as_ref() != Some(&step.plan) {
                    self.plan = Some(step.plan.clone());
                    let request = v1::StepStreamRequest { plan: self.plan.clone(), ..Default::default() };
                    put_message(&mut buffer, &request, 0);
                }
                let mut start = step.start.clone();
                if step.is_numbered() {
                    let before = waiting.iter().take(self.sent).filter(|step| step.is_numbered()).count();
                    start.sequence = next + before as u64;
                }
                head.step = Some(start);
            }
            if step.payload.byte_count == 0 {
                put_message(&mut buffer, &head, 0);
            } else {
                put_chunk(&mut buffer, &head, CHUNK_FIELD, &step.payload, &mut self.cursor);
            }
            if self.cursor.offset == step.payload.byte_count {
                (self.sent, self.cursor) = (self.sent + 1, Cursor::default());
            }
        }
        buffer.freeze()
    }
}

impl Receiver {
    /// Reads the answer to one step.
    async fn receive(&mut self, pulls: bool, into: &mut Targets<'_>) -> Result<StepResult> {
        let mut answer = self.inbox.expect().await?;
        if let Some(planned) = answer.planned.take() {
            self.parameters = planned.parameters.unwrap_or_default();
            answer = self.inbox.expect().await?;
        }
        let result = answer.result.ok_or_else(|| Error::malformed("to a step has no result"))?;
        let mut step = StepResult { result, parameters: Default::default(), parameters_step: answer.parameters_step };
        if pulls {
            let mut reception = Reception::new(&self.parameters, into)?;
            let mut chunk = answer.chunk;
            while !reception.is_complete() {
                match chunk.take() {
                    Some(chunk) => reception.add(&chunk)?,
                    None => chunk = self.inbox.expect().await?.chunk,
                }
            }
            step.parameters = reception.into_tensors();
        }
        Ok(step)
    }
}
