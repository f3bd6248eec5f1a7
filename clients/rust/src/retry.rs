//! Attempts of a call until its deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Request;

use crate::error::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Speed of a slow network, by which deadlines are extended.
const BYTES_PER_SECOND: u64 = 10_000_000;

/// The attempts of one call.
pub(crate) struct Retry {
    deadline: Option<Instant>,
    attempts: u32,
}

impl Retry {
    /// `timeout` bounds all attempts of a call without bytes; a transfer gets a second more for each
    /// 10 MB.
    pub(crate) fn new(timeout: Duration, byte_count: u64) -> Self {
        let total = timeout.saturating_add(Duration::from_secs(byte_count / BYTES_PER_SECOND));
        Self { deadline: Instant::now().checked_add(total), attempts: 0 }
    }

    /// The remaining time.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// A request that states the remaining time.
    pub(crate) fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(remaining) = self.remaining() {
            request.set_timeout(remaining);
        }
        request
    }

    /// Makes an attempt that ends at the deadline.
    pub(crate) async fn bound<T>(&mut self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        self.attempts += 1;
        match self.deadline {
            Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(Error::deadline())),
            None => attempt.await,
        }
    }

    /// Waits before another attempt; returns the error if there is to be none.
    pub(crate) async fn pause(&self, error: Error) -> Result<()> {
        if !error.is_repeatable() {
            return Err(error);
        }
        let longest = LONGEST_PAUSE.min(FIRST_PAUSE * (1 << (self.attempts - 1).min(8)));
        let jitter = 0.5 + 0.5 * f64::from(u16::from_le_bytes(crate::random())) / f64::from(u16::MAX);
        let pause = longest.mul_f64(jitter).max(error.retry_after().unwrap_or_default());
        let end = Instant::now() + pause;
        if self.deadline.is_some_and(|deadline| end >= deadline) {
            return Err(error.after_attempts(self.attempts));
        }
        sleep_until(end).await;
        Ok(())
    }
}
