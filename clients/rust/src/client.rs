//! The connection to a server.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status};

use crate::error::{Error, Result};
use crate::retry::Retry;
use crate::v1::capabilities_service_client::CapabilitiesServiceClient;
use crate::v1::function_service_client::FunctionServiceClient;
use crate::v1::session_service_client::SessionServiceClient;
use crate::v1::worker_service_client::WorkerServiceClient;
use crate::v1::{self, ErrorReason};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// More often than balancers forget a silent connection (350 s), and less often than servers allow by
/// default (300 s).
const KEEPALIVE_TIME: Duration = Duration::from_secs(330);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client of one server. Clones share its connection.
///
/// It connects at the first call, and again whenever the connection is lost. All calls of a client go
/// to one server, and are repeated until their deadline when it cannot be reached: a read because it
/// changes nothing, a change because it has a request id.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    token: Authorization,
    timeout: Duration,
}

/// Settings of a connection; see [`Client::builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    target: String,
    token: Option<String>,
    tls: bool,
    authorities: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    domain_name: Option<String>,
    timeout: Option<Duration>,
}

impl Builder {
    /// Sends a bearer token with every call. Without TLS it is not encrypted. `OPTSERVE_TOKEN` by
    /// default.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Encrypts the connection, and trusts the authorities of the system.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Encrypts the connection, and trusts the authorities in a PEM file. `OPTSERVE_CA` by default.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(path.into());
        self
    }

    /// Shows a client's certificate (mutual TLS): PEM files of the certificate and its key.
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name in the server's certificate, if it is not that of the target.
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    /// Bounds each call with all its attempts; a minute by default. A transfer gets a second more for
    /// each 10 MB.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Returns a client. It connects at the first call.
    ///
    /// # Errors
    /// If there is no target, or the settings of TLS cannot be used.
    // It is async because the channel needs a runtime.
    #[allow(clippy::unused_async)]
    pub async fn connect(self) -> Result<Client> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let target = Some(self.target).filter(|target| !target.is_empty()).or_else(|| variable("OPTSERVE_SERVER"));
        let target = target.ok_or_else(|| {
            Error::invalid(ErrorReason::FieldRequired, "target", "the target is empty, and OPTSERVE_SERVER is not set")
        })?;
        let authorities =
            self.authorities.or_else(|| variable("OPTSERVE_CA").filter(|_| !self.tls).map(PathBuf::from));
        let tls = self.tls || authorities.is_some() || self.identity.is_some();
        let url = if target.contains("://") {
            target
        } else {
            format!("{}://{target}", if tls { "https" } else { "http" })
        };
        let mut endpoint = Endpoint::from_shared(url)
            .and_then(|endpoint| endpoint.user_agent(concat!("optserve-rust/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| unusable("target", error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_TIME)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if tls {
            let mut config = ClientTlsConfig::new();
            config = match &authorities {
                Some(path) => config.ca_certificate(Certificate::from_pem(read("ca_file", path)?)),
                None => config.with_native_roots(),
            };
            if let Some((certificate, key)) = &self.identity {
                let (certificate, key) = (read("identity_files", certificate)?, read("identity_files", key)?);
                config = config.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = self.domain_name {
                config = config.domain_name(name);
            }
            endpoint = endpoint.tls_config(config).map_err(|error| unusable("tls", error))?;
        }
        let token = self.token.or_else(|| variable("OPTSERVE_TOKEN"));
        let token = token.map(|token| {
            let mut value: HeaderValue =
                format!("Bearer {token}").parse().map_err(|error| unusable("token", error))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Client {
            channel: endpoint.connect_lazy(),
            token: Authorization(token.transpose()?),
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
        })
    }
}

fn unusable(setting: &str, cause: impl std::error::Error) -> Error {
    let message = format!("the setting {setting} cannot be used: {cause}");
    Error::invalid(ErrorReason::UnsupportedValue, setting, message)
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unusable(setting, error))
}

/// Adds the token to a call.
#[derive(Clone, Debug)]
pub struct Authorization(Option<HeaderValue>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            let value = MetadataValue::try_from(value.as_bytes());
            request.metadata_mut().insert("authorization", value.map_err(|_| Status::internal("the token"))?);
        }
        Ok(request)
    }
}

/// What the clients of services send their calls with.
pub type Transport = InterceptedService<Channel, Authorization>;

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident $type:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> $type<Transport> {
                    $type::with_interceptor(self.channel.clone(), self.token.clone())
                        .max_decoding_message_size(usize::MAX)
                        .max_encoding_message_size(usize::MAX)
                }
            )*
        }
    };
}

services! {
    /// The generated client of sessions.
    session_service SessionServiceClient;
    /// The generated client of workers, with the calls for data plans.
    worker_service WorkerServiceClient;
    /// The generated client of functions.
    function_service FunctionServiceClient;
    /// The generated client of capabilities.
    capabilities_service CapabilitiesServiceClient;
}

/// Makes a unary call that may be repeated: a read, or a change with a request id.
macro_rules! call {
    ($client:expr, $service:ident.$method:ident($request:expr)) => {
        $client
            .repeat($request, |request| {
                let mut service = $client.$service();
                async move { service.$method(request).await }
            })
            .await
    };
}
pub(crate) use call;

impl Client {
    /// Connects to a server, such as `localhost:50051`, with the settings of the environment:
    /// `OPTSERVE_SERVER` is the target if it is empty, `OPTSERVE_TOKEN` the token, and `OPTSERVE_CA` a
    /// PEM file with the authorities to trust, which turns TLS on.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(target: &str) -> Result<Self> {
        Self::builder(target).connect().await
    }

    /// Settings of a connection to a server.
    pub fn builder(target: &str) -> Builder {
        Builder { target: target.to_owned(), ..Builder::default() }
    }

    /// The same client with another bound of each call; see [`Builder::timeout`].
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The gRPC channel, for services that this client does not cover, such as `grpc.health.v1`. The
    /// token is not added to its calls.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        self.token.0.clone()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the server can do.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn capabilities(&self) -> Result<v1::GetCapabilitiesResponse> {
        call!(self, capabilities_service.get_capabilities(v1::GetCapabilitiesRequest {}))
    }

    /// See [`call!`].
    pub(crate) async fn repeat<Q: Clone, A, F>(&self, request: Q, method: impl Fn(Request<Q>) -> F) -> Result<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut retry = Retry::new(self.timeout, 0);
        loop {
            let answer = method(retry.request(request.clone()));
            match retry.bound(async { Ok(answer.await?.into_inner()) }).await {
                Ok(answer) => return Ok(answer),
                Err(error) => retry.pause(error).await?,
            }
        }
    }
}
