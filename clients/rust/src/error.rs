//! The error of a call.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use crate::google::rpc;
use crate::v1::ErrorReason;

const DOMAIN: &str = "optserve.v1";

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

/// The error of a call. Act on its reason or code, never on the text.
#[derive(Clone, Debug)]
pub struct Error(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    code: Code,
    reason: ErrorReason,
    message: String,
    field: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    request_id: String,
    applied: Applied,
    has_info: bool,
}

impl Error {
    /// The gRPC status code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The contract's reason. Unspecified if the error is not the server's, or its reason is newer
    /// than this client.
    pub fn reason(&self) -> ErrorReason {
        self.0.reason
    }

    /// What was wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Path of the wrong field in the request; empty if there is none.
    pub fn field(&self) -> &str {
        &self.0.field
    }

    /// Facts about the error by name; [`ErrorReason`] says which.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// Time after which a repeat may succeed, if the server states one.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Name of the call in the server's log; empty if the server did not answer.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Whether the call may have changed anything.
    pub fn applied(&self) -> Applied {
        self.0.applied
    }

    fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code,
            reason: ErrorReason::Unspecified,
            message: message.into(),
            field: String::new(),
            metadata: HashMap::new(),
            retry_after: None,
            request_id: String::new(),
            applied: Applied::Unknown,
            has_info: false,
        }))
    }

    /// An argument that cannot be sent. `field` is the argument or the tensor.
    pub(crate) fn invalid(reason: ErrorReason, field: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(Code::InvalidArgument, message);
        error.0.reason = reason;
        error.0.field = field.to_owned();
        error.0.applied = Applied::No;
        error
    }

    /// An answer that breaks the contract.
    pub(crate) fn malformed(what: impl fmt::Display) -> Self {
        Self::new(Code::Internal, format!("the answer of the server {what}"))
    }

    /// The end of an answer before it was complete.
    pub(crate) fn truncated() -> Self {
        Self::new(Code::Unavailable, "the answer ended before it was complete")
    }

    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "the deadline has passed")
    }

    /// A step behind one that failed.
    pub(crate) fn abandoned(cause: &Error) -> Self {
        let mut error =
            Self::new(Code::Aborted, format!("an earlier step of the stream failed: {}", cause.message()));
        error.0.applied = Applied::No;
        error
    }

    /// A failure to read or write the caller's file.
    pub(crate) fn file(cause: std::io::Error) -> Self {
        Self::new(Code::Aborted, format!("the file cannot be read or written: {cause}"))
    }

    pub(crate) fn after_attempts(mut self, attempts: u32) -> Self {
        if attempts > 1 {
            self.0.message += &format!(" (tried {attempts} times)");
        }
        self
    }

    /// Whether the same call may succeed later.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self.0.code {
            Code::Unavailable => true,
            Code::Cancelled | Code::DeadlineExceeded => !self.0.has_info,
            _ => self.0.retry_after.is_some(),
        }
    }

    /// The sequence that the worker must use next, if the error states one.
    pub(crate) fn expected_sequence(&self) -> Option<u64> {
        use ErrorReason::{SequenceExpired, SequenceGap, SequenceReused};
        match self.0.reason {
            SequenceGap | SequenceReused | SequenceExpired => self.0.metadata.get("expected")?.parse().ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let details = &self.0;
        match details.reason {
            ErrorReason::Unspecified => write!(formatter, "{:?}", details.code)?,
            reason => formatter.write_str(reason.as_str_name().trim_start_matches("ERROR_REASON_"))?,
        }
        write!(formatter, ": {}", details.message)?;
        if !details.field.is_empty() {
            write!(formatter, " ({})", details.field)?;
        }
        if !details.request_id.is_empty() {
            write!(formatter, " [request {}]", details.request_id)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let mut error = Self::new(status.code(), status.message());
        if std::error::Error::source(&status).is_some() {
            // Not the server's: tonic chose the code by what went wrong with the connection.
            error.0.code = Code::Unavailable;
        }
        if let Some(id) = status.metadata().get("x-request-id") {
            error.0.request_id = id.to_str().unwrap_or_default().to_owned();
        }
        let details = rpc::Status::decode(status.details()).unwrap_or_default().details;
        for detail in details {
            match detail.type_url.rsplit('/').next() {
                Some("google.rpc.ErrorInfo") => {
                    let info = rpc::ErrorInfo::decode(&*detail.value).unwrap_or_default();
                    if info.domain == DOMAIN {
                        let name = format!("ERROR_REASON_{}", info.reason);
                        error.0.reason = ErrorReason::from_str_name(&name).unwrap_or_default();
                        if info.metadata.get("applied").is_some_and(|applied| applied == "no") {
                            error.0.applied = Applied::No;
                        }
                        error.0.metadata = info.metadata;
                        error.0.has_info = true;
                    }
                }
                Some("google.rpc.BadRequest") => {
                    let request = rpc::BadRequest::decode(&*detail.value).unwrap_or_default();
                    if let Some(violation) = request.field_violations.into_iter().next() {
                        error.0.field = violation.field;
                    }
                }
                Some("google.rpc.RetryInfo") => {
                    let retry = rpc::RetryInfo::decode(&*detail.value).unwrap_or_default();
                    error.0.retry_after = retry.retry_delay.and_then(|delay| delay.try_into().ok());
                }
                _ => {}
            }
        }
        error
    }
}
