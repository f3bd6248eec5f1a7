//! Workers that train a session together.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::client::call;
use crate::error::{Error, Result};
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
    /// Makes the handle's worker a member, in a new epoch, which its steps carry from then on. `lease` is
    /// the time without a call after which the membership ends; the server's default if `None`.
    ///
    /// After a step that failed with the reason `Fenced` or `NotAMember`, join again.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn join(&mut self, lease: Option<Duration>) -> Result<Membership> {
        let request = v1::JoinSessionRequest {
            session: self.name.clone(),
            worker: self.worker.name.clone(),
            lease_seconds: lease.map(|lease| lease.as_secs_f64()),
        };
        let answer = call!(self.client, worker_service.join_session(request))?;
        let lease = Duration::try_from_secs_f64(answer.lease_seconds);
        self.worker.enter(answer.epoch, Some(answer.next_sequence));
        self.received_step.store(answer.session.unwrap_or_default().step, Ordering::Relaxed);
        Ok(Membership {
            epoch: answer.epoch,
            rank: answer.rank,
            lease: lease.map_err(|_| Error::malformed("has no lease"))?,
        })
    }

    /// Renews the lease, as every step does, and returns the session's step.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn renew_lease(&self) -> Result<i64> {
        let request = v1::RenewLeaseRequest {
            session: self.name.clone(),
            worker: self.worker.name.clone(),
            worker_epoch: self.worker.epoch,
        };
        Ok(call!(self.client, worker_service.renew_lease(request))?.step)
    }

    /// Ends the membership. Steps that wait in it are rejected.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn leave(&mut self) -> Result<()> {
        let request = v1::LeaveSessionRequest {
            session: self.name.clone(),
            worker: self.worker.name.clone(),
            worker_epoch: self.worker.epoch,
        };
        call!(self.client, worker_service.leave_session(request))?;
        self.worker.enter(0, None);
        Ok(())
    }

    /// Lists the members, and those that were members, by rank and then by name.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn workers(&self) -> Result<Vec<v1::Worker>> {
        let request = v1::ListWorkersRequest { session: self.name.clone() };
        Ok(call!(self.client, worker_service.list_workers(request))?.workers)
    }
}
