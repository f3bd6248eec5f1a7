//! The error of a call.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use crate::google::rpc;
use crate::v1::ErrorReason;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a failed call may have changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The call changed nothing.
    No,
    /// It is not known. The same call again settles it.
    Unknown,
}

/// The error of a call, with the fields of [`ErrorDetails`]. Act on its reason or code, never on the text.
#[derive(Clone, Debug)]
pub struct Error(Box<ErrorDetails>);

/// What is known of an error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErrorDetails {
    /// The gRPC status code.
    pub code: Code,
    /// The contract's reason; unspecified if the error is not the server's, or newer than this client.
    pub reason: ErrorReason,
    /// What was wrong.
    pub message: String,
    /// Path of the wrong field in the request; empty if there is none.
    pub field: String,
    /// Facts by name; [`ErrorReason`] says which.
    pub metadata: HashMap<String, String>,
    /// Time after which a repeat may succeed, if the server states one.
    pub retry_after: Option<Duration>,
    /// Name of the call in the server's log; empty if the server did not answer.
    pub request_id: String,
    /// Whether the call may have changed anything.
    pub applied: Applied,
    is_servers: bool,
}

impl Deref for Error {
    type Target = ErrorDetails;

    fn deref(&self) -> &ErrorDetails {
        &self.0
    }
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorDetails {
            code,
            reason: ErrorReason::Unspecified,
            message: message.into(),
            field: String::new(),
            metadata: HashMap::new(),
            retry_after: None,
            request_id: String::new(),
            applied: Applied::Unknown,
            is_servers: false,
        }))
    }

    /// An argument that cannot be sent. `field` is the argument or the tensor.
    pub(crate) fn invalid(reason: ErrorReason, field: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(Code::InvalidArgument, message);
        (error.0.reason, error.0.field, error.0.applied) = (reason, field.to_owned(), Applied::No);
        error
    }

    /// An answer that breaks the contract.
    pub(crate) fn malformed(what: &str) -> Self {
        Self::new(Code::Internal, format!("the answer of the server {what}"))
    }

    /// A step behind one that failed.
    pub(crate) fn abandoned(cause: &Error) -> Self {
        let mut error = Self::new(Code::Aborted, format!("an earlier step failed: {}", cause.message));
        error.0.applied = Applied::No;
        error
    }

    pub(crate) fn after(mut self, attempts: u32) -> Self {
        if attempts > 1 {
            self.0.message += &format!(" (tried {attempts} times)");
        }
        self
    }

    /// Whether the same call may succeed later.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self.code {
            Code::Unavailable => true,
            Code::Cancelled | Code::DeadlineExceeded => !self.is_servers,
            _ => self.retry_after.is_some(),
        }
    }

    /// The sequence that the worker must use next, if the error states one.
    pub(crate) fn expected_sequence(&self) -> Option<u64> {
        use ErrorReason::{SequenceExpired, SequenceGap, SequenceReused};
        let states = matches!(self.reason, SequenceGap | SequenceReused | SequenceExpired);
        self.metadata.get("expected").filter(|_| states)?.parse().ok()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            ErrorReason::Unspecified => write!(formatter, "{:?}", self.code)?,
            reason => formatter.write_str(reason.as_str_name().trim_start_matches("ERROR_REASON_"))?,
        }
        write!(formatter, ": {}", self.message)?;
        if !self.field.is_empty() {
            write!(formatter, " ({})", self.field)?;
        }
        if !self.request_id.is_empty() {
            write!(formatter, " [request {}]", self.request_id)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let is_local = std::error::Error::source(&status).is_some();
        // tonic chooses other codes by what went wrong with a connection.
        let mut error = Self::new(if is_local { Code::Unavailable } else { status.code() }, status.message());
        let found = &mut error.0;
        if let Some(id) = status.metadata().get("x-request-id") {
            id.to_str().unwrap_or_default().clone_into(&mut found.request_id);
        }
        for detail in rpc::Status::decode(status.details()).unwrap_or_default().details {
            if let Ok(info) = detail.to_msg::<rpc::ErrorInfo>() {
                found.is_servers = info.domain == "optserve.v1";
                let name = format!("ERROR_REASON_{}", info.reason);
                found.reason = ErrorReason::from_str_name(&name).unwrap_or_default();
                let is_unchanged = info.metadata.get("applied").is_some_and(|applied| applied == "no");
                found.applied = if is_unchanged { Applied::No } else { Applied::Unknown };
                found.metadata = info.metadata;
            } else if let Ok(request) = detail.to_msg::<rpc::BadRequest>() {
                found.field = request.field_violations.into_iter().next().unwrap_or_default().field;
            } else if let Ok(retry) = detail.to_msg::<rpc::RetryInfo>() {
                found.retry_after = retry.retry_delay.and_then(|delay| delay.try_into().ok());
            }
        }
        error
    }
}
