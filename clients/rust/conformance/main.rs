//! The Rust client's driver of the conformance corpus; see
//! proto/optserve/conformance/v1/driver.proto.
//!
//!     conformance HOST:PORT

mod calls;
mod exchange;
mod transcript;

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};

use optserve::{Applied, Client, v1};
use prost::Message;
use wire::driver_request::Call;
use wire::driver_response::Outcome;

/// The messages of the driver's protocol.
mod wire {
    #![allow(clippy::all, clippy::pedantic, dead_code)]

    include!("generated/optserve.conformance.v1.rs");
}

/// An error without a reason is a failure for the calls of the corpus, and a refusal for those of a
/// transcript.
enum Failure {
    Refused(optserve::Error),
    Failed(String),
}

impl From<optserve::Error> for Failure {
    fn from(error: optserve::Error) -> Self {
        if error.reason == v1::ErrorReason::Unspecified {
            return Self::Failed(error.to_string());
        }
        Self::Refused(error)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().next_back().ok_or("the address of a server is missing")?;
    let client = Client::connect(&address).await?;
    let mut transcript = transcript::Transcript::default();
    let mut timing = exchange::Timing::default();
    while let Some(request) = read()? {
        let outcome = match request.call {
            Some(Call::Train(call)) => calls::train(&client, call).await.map(Outcome::Train),
            Some(Call::Schedule(call)) => calls::schedule(&client, call).await.map(Outcome::Schedule),
            Some(Call::Loss(call)) => calls::loss(&client, call).await.map(Outcome::Loss),
            Some(Call::Activation(call)) => calls::activation(&client, call).await.map(Outcome::Activation),
            Some(Call::Complexity(call)) => calls::complexity(&client, call).await.map(Outcome::Complexity),
            Some(Call::Metrics(call)) => calls::metrics(&client, call).await.map(Outcome::Metrics),
            Some(Call::Connect(call)) => transcript.connect(call).await.map(Outcome::Connect),
            Some(Call::Open(call)) => transcript.open(call).await.map(Outcome::Open),
            Some(Call::Join(call)) => transcript.join(call).await.map(Outcome::Join),
            Some(Call::Steps(call)) => transcript.steps(call).await.map(Outcome::Steps),
            Some(Call::Read(call)) => transcript.read(call).await.map(Outcome::Read),
            Some(Call::Leave(_)) => transcript.leave().await.map(Outcome::Leave),
            Some(Call::Time(call)) => timing.time(call).await,
            None => Ok(Outcome::Unsupported("a call that is newer than this driver".to_owned())),
        };
        let outcome = outcome.unwrap_or_else(|failure| match failure {
            Failure::Refused(error) => Outcome::Refusal(refusal(&error)),
            Failure::Failed(text) => Outcome::Failure(text),
        });
        write(&wire::DriverResponse { outcome: Some(outcome) })?;
    }
    Ok(())
}

fn refusal(error: &optserve::Error) -> wire::Refusal {
    wire::Refusal {
        reason: error.reason.into(),
        field: error.field.clone(),
        code: error.code as i32,
        not_applied: error.applied == Applied::No,
    }
}

/// The next request; `None` at the end of the input.
fn read() -> Result<Option<wire::DriverRequest>, Box<dyn Error>> {
    let mut input = io::stdin().lock();
    let mut prefix = [0; 4];
    match input.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    input.read_exact(&mut body)?;
    Ok(Some(wire::DriverRequest::decode(&*body)?))
}

fn write(response: &wire::DriverResponse) -> Result<(), Box<dyn Error>> {
    let body = response.encode_to_vec();
    let mut output = io::stdout().lock();
    output.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    output.write_all(&body)?;
    Ok(output.flush()?)
}
