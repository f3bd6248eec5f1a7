//! Workers that train a session together.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Result;
use crate::session::Session;
use crate::v1;

/// The membership of a handle's worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Membership {
    /// Greater than that of every earlier membership of the session.
    pub epoch: u64,
    /// The lowest number, from 0, that no other member has.
    pub rank: i32,
    /// Time without a call after which the membership ends.
    pub lease: Duration,
}

impl Session {
    /// Makes the handle's worker a member, in a new epoch, which its steps carry from then on. `lease` is the
    /// time without a call after which the membership ends; the server's default if `None`.
    ///
    /// After an error with the reason `Fenced` or `NotAMember`, join again.
    pub async fn join(&mut self, lease: Option<Duration>) -> Result<Membership> {
        let (session, worker) = (self.name.clone(), self.worker.name.clone());
        let lease_seconds = lease.map(|lease| lease.as_secs_f64());
        let answer = self.client.call(v1::JoinSessionRequest { session, worker, lease_seconds }).await?;
        self.worker.enter(answer.epoch, answer.next_sequence);
        self.received.store(answer.session.unwrap_or_default().step, Ordering::Relaxed);
        let lease = Duration::try_from_secs_f64(answer.lease_seconds).unwrap_or_default();
        Ok(Membership { epoch: answer.epoch, rank: answer.rank, lease })
    }

    /// Renews the lease, as every step does, and returns the session's step.
    pub async fn renew_lease(&self) -> Result<i64> {
        let (session, worker) = (self.name.clone(), self.worker.name.clone());
        let worker_epoch = self.worker.epoch;
        Ok(self.client.call(v1::RenewLeaseRequest { session, worker, worker_epoch }).await?.step)
    }

    /// Ends the membership. Steps that wait in it are rejected.
    pub async fn leave(&mut self) -> Result<()> {
        let (session, worker) = (self.name.clone(), self.worker.name.clone());
        let worker_epoch = self.worker.epoch;
        self.client.call(v1::LeaveSessionRequest { session, worker, worker_epoch }).await?;
        self.worker.enter(0, self.worker.next);
        Ok(())
    }

    /// Lists the members, and those that were members, by rank and then by name.
    pub async fn workers(&self) -> Result<Vec<v1::Worker>> {
        Ok(self.client.call(v1::ListWorkersRequest { session: self.name.clone() }).await?.workers)
    }
}
