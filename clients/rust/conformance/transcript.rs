//! The calls of a transcript, which keep a client and a session.

use std::time::Duration;

use optserve::v1;
use optserve::{Client, Session, Settings, Step, StepResult};

use crate::calls::{gradients_of, tensors};
use crate::{Failure, refusal, wire};

type Result<T> = std::result::Result<T, Failure>;

/// What the calls before have opened.
#[derive(Default)]
pub struct Transcript {
    client: Option<Client>,
    session: Option<Session>,
}

/// A refusal also without a reason.
fn refuse(error: optserve::Error) -> Failure {
    Failure::Refused(error)
}

impl Transcript {
    /// Replaces the client, as the restart of a program does.
    pub async fn connect(&mut self, call: wire::ConnectCall) -> Result<wire::ConnectAnswer> {
        self.session = None;
        let token = Some(call.token).filter(|token| !token.is_empty());
        let settings = Settings { token, ..Default::default() };
        self.client = Some(Client::connect_with(&call.target, settings).await.map_err(refuse)?);
        Ok(wire::ConnectAnswer {})
    }

    /// Creates a session, or opens one.
    pub async fn open(&mut self, call: wire::OpenCall) -> Result<wire::OpenAnswer> {
        let client = self.client.as_ref().ok_or_else(|| missing("client"))?;
        let session = if call.session.is_empty() {
            let wire::OpenCall { spec, parameters, worker, .. } = call;
            let request = v1::CreateSessionRequest { spec, parameters, ..Default::default() };
            client.create_session_as(&worker, request).await
        } else {
            client.session_as(&call.session, &call.worker).await
        };
        let session = self.session.insert(session.map_err(refuse)?);
        let request = v1::GetSessionRequest { name: session.name().to_owned(), ..Default::default() };
        let step = client.call(request).await.map_err(refuse)?.session.unwrap_or_default().step;
        Ok(wire::OpenAnswer { session: session.name().to_owned(), step })
    }

    /// Makes the worker a member.
    pub async fn join(&mut self, call: wire::JoinCall) -> Result<wire::JoinAnswer> {
        let lease = call.lease_seconds.map(Duration::from_secs_f64);
        let membership = self.session()?.join(lease).await.map_err(refuse)?;
        Ok(wire::JoinAnswer { epoch: membership.epoch, rank: membership.rank })
    }

    /// Takes steps until one fails.
    pub async fn steps(&mut self, call: wire::StepsCall) -> Result<wire::StepsAnswer> {
        let session = self.session()?;
        let mut steps = Vec::new();
        for (index, gradients) in call.gradients.iter().enumerate() {
            let mut step = Step::new(gradients_of(gradients)?).pull();
            step.timeout = call.timeout_seconds.map(Duration::from_secs_f64);
            step.options.expected_step = call.expected_step.map(|expected| expected + index as i64);
            steps.push(step);
        }
        let mut answer = wire::StepsAnswer::default();
        let window = usize::try_from(call.window).unwrap_or_default();
        if let Err(error) = take(session, steps, window, &mut answer.outcomes).await {
            answer.refusal = Some(refusal(&error));
        }
        Ok(answer)
    }

    /// Reads all parameters.
    pub async fn read(&mut self, call: wire::ReadCall) -> Result<wire::ReadAnswer> {
        let options = v1::PullParametersRequest { newer_than_step: call.newer_than, ..Default::default() };
        let found = self.session()?.pull(options).await.map_err(refuse)?;
        Ok(wire::ReadAnswer { parameters: Some(tensors(found.tensors)), step: found.step })
    }

    /// Ends the membership.
    pub async fn leave(&mut self) -> Result<wire::LeaveAnswer> {
        self.session()?.leave().await.map_err(refuse)?;
        Ok(wire::LeaveAnswer {})
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| missing("session"))
    }
}

fn missing(what: &str) -> Failure {
    Failure::Failed(format!("there is no {what}"))
}

async fn take(
    session: &mut Session,
    steps: Vec<Step<'static>>,
    window: usize,
    outcomes: &mut Vec<wire::StepOutcome>,
) -> optserve::Result<()> {
    let outcome_of = |result: &StepResult| wire::StepOutcome {
        step: result.step,
        sequence: result.sequence,
        replayed: result.replayed,
    };
    if window == 0 {
        for step in steps {
            outcomes.push(outcome_of(&session.step(step).await?));
        }
        return Ok(());
    }
    let mut stream = session.stream(window)?;
    for step in steps {
        if stream.is_full() {
            outcomes.extend(stream.result().await?.as_ref().map(outcome_of));
        }
        stream.submit(step).await?;
    }
    while let Some(result) = stream.result().await? {
        outcomes.push(outcome_of(&result));
    }
    Ok(())
}
