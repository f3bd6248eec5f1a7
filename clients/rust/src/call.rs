//! Streaming calls, whose messages are framed by this client.

use std::convert::Infallible;
use std::future::poll_fn;
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

/// The requests of a call as framed messages. tonic's codec would copy each message once more.
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

type Opening<A> = Pin<Box<dyn Future<Output = Result<Streaming<A>, Status>> + Send>>;

/// Sends the messages of a call; dropped at their end.
pub(crate) type Outbox = mpsc::Sender<Bytes>;

/// Receives the answers of a call. Dropped before their end, the call is cancelled.
pub(crate) struct Inbox<A> {
    state: State<A>,
}

enum State<A> {
    /// Until the server answers for the first time.
    Opening(SyncWrapper<Opening<A>>),
    Open(Box<Streaming<A>>),
    Failed(Error),
}

impl<A: Message + Default + Send + 'static> Inbox<A> {
    /// Waits until the server answers for the first time, or the call has failed.
    pub(crate) async fn open(&mut self) {
        if let State::Opening(opening) = &mut self.state {
            self.state = match opening.get_mut().await {
                Ok(answers) => State::Open(Box::new(answers)),
                Err(status) => State::Failed(status.into()),
            };
        }
    }

    /// The next answer; `None` at the end. May be cancelled without loss.
    pub(crate) async fn next(&mut self) -> Result<Option<A>> {
        self.open().await;
        match &mut self.state {
            State::Open(answers) => Ok(answers.message().await?),
            State::Failed(error) => Err(error.clone()),
            State::Opening(_) => unreachable!("it is open"),
        }
    }

    /// The next answer, which there must be.
    pub(crate) async fn expect(&mut self) -> Result<A> {
        self.next().await?.ok_or_else(Error::truncated)
    }
}

/// Opens a call. The outbox takes one buffer, so that two are between it and the network.
pub(crate) fn open<A: Message + Default + Send + 'static>(
    client: &Client,
    path: &'static str,
    timeout: Option<Duration>,
) -> (Outbox, Inbox<A>) {
    let (outbox, requests) = mpsc::channel(1);
    let mut request = http::Request::new(tonic::body::Body::new(Requests(requests)));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(token) = client.authorization() {
        headers.insert(AUTHORIZATION, token);
    }
    if let Some(timeout) = timeout {
        let millis = timeout.as_millis().clamp(1, 99_999_999).to_string();
        headers.insert("grpc-timeout", format!("{millis}m").parse().expect("digits"));
    }
    let mut channel = client.channel();
    let opening: Opening<A> = Box::pin(async move {
        poll_fn(|context| channel.poll_ready(context)).await.map_err(|e| Status::from_error(e.into()))?;
        let response = channel.call(request).await.map_err(|e| Status::from_error(e.into()))?;
        match Status::from_header_map(response.headers()) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            _ => {}
        }
        let decoder = ProstCodec::<A, A>::default().decoder();
        let status = response.status();
        Ok(Streaming::new_response(decoder, response.into_body(), status, None, Some(usize::MAX)))
    });
    (outbox, Inbox { state: State::Opening(SyncWrapper::new(opening)) })
}

/// Sends buffers until there are no more, or the call has ended; then waits without an end, because
/// only the answers say how it ended.
pub(crate) async fn send_all(outbox: Outbox, mut buffers: impl Iterator<Item = Bytes>) -> Infallible {
    while let Ok(permit) = outbox.reserve().await {
        let Some(buffer) = buffers.next() else { break };
        permit.send(buffer);
    }
    drop(outbox);
    std::future::pending().await
}
