//! Calls, whose requests are framed by this client.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, TE};
use http_body::{Body, Frame};
use prost::Message;
use sync_wrapper::SyncWrapper;
use tokio::sync::mpsc;
use tonic::client::GrpcService;
use tonic::codec::{Codec, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::payload::{Payload, frame};
use crate::retry::Retry;
use crate::session::random_name;

/// A request, or a message of a stream of requests, of a call.
pub trait Rpc: Message {
    /// The method, `/{service}/{method}`.
    const PATH: &'static str;
    /// An answer.
    type Answer: Message + Default + 'static;

    /// The `request_id` of a change.
    fn request_id(&mut self) -> Option<&mut String> {
        None
    }
}

/// The requests of a call as framed messages. tonic's codec would copy each once more.
struct Requests(mpsc::Receiver<Bytes>);

impl Body for Requests {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// Sends the messages of a call; dropped at their end. It has space for one buffer, so that two are
/// between it and the network.
pub(crate) type Outbox = mpsc::Sender<Bytes>;

type Opening<A> = Pin<Box<dyn Future<Output = Result<Streaming<A>, Status>> + Send>>;

/// Receives the answers of a call. Dropped before their end, the call is cancelled.
pub(crate) enum Inbox<A> {
    /// Until the server answers for the first time.
    Opening(SyncWrapper<Opening<A>>),
    Open(Box<Streaming<A>>),
    Failed(Error),
}

impl<A> Inbox<A> {
    /// Waits until the server answers for the first time, or the call has failed.
    pub(crate) async fn open(&mut self) {
        if let Self::Opening(opening) = self {
            *self = match opening.get_mut().await {
                Ok(answers) => Self::Open(Box::new(answers)),
                Err(status) => Self::Failed(status.into()),
            };
        }
    }

    /// The next answer; `None` at the end. May be cancelled without loss.
    pub(crate) async fn next(&mut self) -> Result<Option<A>> {
        self.open().await;
        match self {
            Self::Open(answers) => Ok(answers.message().await?),
            Self::Failed(error) => Err(error.clone()),
            Self::Opening(_) => unreachable!("it was opened"),
        }
    }

    /// The next answer, which there must be.
    pub(crate) async fn expect(&mut self) -> Result<A> {
        let truncated = || Error::new(Code::Unavailable, "the answer ended before it was complete");
        self.next().await?.ok_or_else(truncated)
    }
}

impl Client {
    /// Opens a call.
    pub(crate) fn open<Q: Rpc>(&self, timeout: Option<Duration>) -> (Outbox, Inbox<Q::Answer>) {
        let (outbox, requests) = mpsc::channel(1);
        let mut request = http::Request::new(tonic::body::Body::new(Requests(requests)));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(Q::PATH);
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        if let Some(timeout) = timeout {
            let millis = timeout.as_millis().clamp(1, 99_999_999);
            headers.insert("grpc-timeout", format!("{millis}m").parse().expect("digits"));
        }
        let mut channel = self.channel();
        let opening = Box::pin(async move {
            poll_fn(|context| channel.poll_ready(context)).await.map_err(|e| Status::from_error(e.into()))?;
            let response = channel.call(request).await.map_err(|e| Status::from_error(e.into()))?;
            match Status::from_header_map(response.headers()) {
                Some(status) if status.code() != Code::Ok => return Err(status),
                _ => {}
            }
            let (decoder, status) = (ProstCodec::<Q::Answer, Q::Answer>::default().decoder(), response.status());
            Ok(Streaming::new_response(decoder, response.into_body(), status, None, Some(usize::MAX)))
        });
        (outbox, Inbox::Opening(SyncWrapper::new(opening)))
    }

    /// Opens a call with one request.
    pub(crate) fn request<Q: Rpc>(&self, request: &Q, timeout: Option<Duration>) -> Inbox<Q::Answer> {
        let (outbox, inbox) = self.open::<Q>(timeout);
        outbox.try_send(frame(request)).expect("there is space for one buffer");
        inbox
    }

    /// Makes any call that has one request and one answer, such as [`v1::ComputeLossRequest`]. It is repeated
    /// until its deadline if the server cannot be reached. A change gets a `request_id`, unless it has one.
    ///
    /// [`v1::ComputeLossRequest`]: crate::v1::ComputeLossRequest
    pub async fn call<Q: Rpc>(&self, mut request: Q) -> Result<Q::Answer> {
        if let Some(id) = request.request_id().filter(|id| id.is_empty()) {
            *id = random_name();
        }
        let mut retry = Retry::new(self.timeout, 0);
        loop {
            let mut inbox = self.request(&request, retry.remaining());
            match retry.bound(receive_last(&mut inbox)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    /// Makes a call whose requests are a framed head and the chunks of a payload, with one answer.
    pub(crate) async fn upload<Q: Rpc>(&self, head: Bytes, payload: &Payload<'_>) -> Result<Q::Answer> {
        let mut retry = Retry::new(self.timeout, payload.byte_count as u64);
        loop {
            let (outbox, mut inbox) = self.open::<Q>(retry.remaining());
            let sending = async {
                let mut requests = std::iter::once(head.clone()).chain(payload.requests());
                while let Ok(permit) = outbox.reserve().await {
                    let Some(request) = requests.next() else { break };
                    permit.send(request);
                }
                drop(outbox);
                pending::<Infallible>().await // only the answer says how the call ended
            };
            let attempt = async {
                tokio::select! {
                    biased;
                    answer = receive_last(&mut inbox) => answer,
                    never = sending => match never {},
                }
            };
            match retry.bound(attempt).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.pause(error).await?,
            }
        }
    }
}

/// The only answer. Reads up to the end of the call, so that it does not look cancelled.
async fn receive_last<A>(inbox: &mut Inbox<A>) -> Result<A> {
    let answer = inbox.expect().await?;
    inbox.next().await?;
    Ok(answer)
}
