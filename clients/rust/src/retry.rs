//! Attempts of a call until its deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use crate::error::{Error, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Speed of a slow network, by which deadlines are extended.
const BYTES_PER_SECOND: u64 = 10_000_000;

/// The attempts of one call.
pub(crate) struct Retry {
    /// `None` if it is too far away.
    deadline: Option<Instant>,
    attempts: u32,
}

impl Retry {
    pub(crate) fn new(timeout: Duration, byte_count: u64) -> Self {
        let total = timeout.saturating_add(Duration::from_secs(byte_count / BYTES_PER_SECOND));
        Self { deadline: Instant::now().checked_add(total), attempts: 0 }
    }

    pub(crate) fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// Makes an attempt that ends at the deadline.
    pub(crate) async fn bound<T>(&mut self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        self.attempts += 1;
        let Some(deadline) = self.deadline else { return attempt.await };
        let passed = |_| Err(Error::new(Code::DeadlineExceeded, "the deadline has passed"));
        timeout_at(deadline, attempt).await.unwrap_or_else(passed)
    }

    /// Waits before another attempt; returns the error if there is to be none.
    pub(crate) async fn pause(&self, error: Error) -> Result<()> {
        if !error.is_repeatable() {
            return Err(error);
        }
        let longest = LONGEST_PAUSE.min(FIRST_PAUSE * (1 << (self.attempts - 1).min(8)));
        let jitter = 0.5 + 0.5 * f64::from(u16::from_le_bytes(crate::random())) / f64::from(u16::MAX);
        let end = Instant::now() + longest.mul_f64(jitter).max(error.retry_after.unwrap_or_default());
        if self.deadline.is_some_and(|deadline| end >= deadline) {
            return Err(error.after(self.attempts));
        }
        sleep_until(end).await;
        Ok(())
    }
}
