//! Workers that train a session together.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Result;
use crate::session::Session;
use crate::v1;

impl Session {
    /// Makes the handle's worker a member, in a new epoch, which its steps carry from then on. `lease` is the
    /// time without a call after which the membership ends; the server's default if `None`. The answer has epoch,
    /// rank and lease.
    ///
    /// After an error with the reason `Fenced` or `NotAMember`, join again.
    pub async fn join(&mut self, lease: Option<Duration>) -> Result<v1::JoinSessionResponse> {
        let (session, worker) = (self.name.clone(), self.worker.name.clone());
        let lease_seconds = lease.map(|lease| lease.as_secs_f64());
        let answer = self.client.call(v1::JoinSessionRequest { session, worker, lease_seconds }).await?;
        self.worker.enter(answer.epoch, answer.next_sequence);
        self.received.store(answer.session.as_ref().map_or(0, |session| session.step), Ordering::Relaxed);
        Ok(answer)
    }

    /// Ends the membership. Steps that wait in it are rejected.
    pub async fn leave(&mut self) -> Result<()> {
        let (session, worker) = (self.name.clone(), self.worker.name.clone());
        let worker_epoch = self.worker.epoch;
        self.client.call(v1::LeaveSessionRequest { session, worker, worker_epoch }).await?;
        self.worker.enter(0, self.worker.next);
        Ok(())
    }
}
