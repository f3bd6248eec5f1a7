//! The connection to a server.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Error, Result};
use crate::v1::ErrorReason;

/// More often than balancers forget a silent connection (350 s), and less often than servers allow by
/// default (300 s).
const KEEPALIVE_TIME: Duration = Duration::from_secs(330);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one server, to which all calls go. Clones share its connection, which is made at the first
/// call, and again whenever it is lost.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    pub(crate) token: Option<HeaderValue>,
    pub(crate) timeout: Duration,
}

/// Settings of a connection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bearer token, sent with every call; without TLS it is not encrypted. `OPTSERVE_TOKEN` if unset.
    pub token: Option<String>,
    /// Whether the connection is encrypted; so it is with one of the following files, too.
    pub tls: bool,
    /// PEM file of the authorities to trust. `OPTSERVE_CA` if unset; those of the system without it.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client's certificate and its key, for mutual TLS.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, if it is not that of the target.
    pub domain_name: Option<String>,
    /// Bounds each call with all its attempts. A transfer gets a second more for each 10 MB.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let timeout = Duration::from_secs(60);
        Self { token: None, tls: false, ca_file: None, identity_files: None, domain_name: None, timeout }
    }
}

impl Client {
    /// Connects to a server, such as `localhost:50051`; `OPTSERVE_SERVER` if empty. What the environment has
    /// of [`Settings`] is used.
    pub async fn connect(target: &str) -> Result<Self> {
        Self::connect_with(target, Settings::default()).await
    }

    /// As [`Client::connect`], with settings. Fails if these cannot be used.
    // It is async because the channel needs a runtime.
    pub async fn connect_with(target: &str, settings: Settings) -> Result<Self> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let target =
            Some(target.to_owned()).filter(|target| !target.is_empty()).or_else(|| variable("OPTSERVE_SERVER"));
        let target = target.ok_or_else(|| unusable("target", "it is empty, and OPTSERVE_SERVER is not set"))?;
        let ca_file = settings.ca_file.or_else(|| variable("OPTSERVE_CA").map(PathBuf::from));
        let tls = settings.tls || ca_file.is_some() || settings.identity_files.is_some();
        let scheme = if tls { "https" } else { "http" };
        let url = if target.contains("://") { target } else { format!("{scheme}://{target}") };
        let mut endpoint = Endpoint::from_shared(url)
            .and_then(|endpoint| endpoint.user_agent(concat!("optserve-rust/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| unusable("target", error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_TIME)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if tls {
            let mut config = match &ca_file {
                Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca_file", path)?)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            if let Some((certificate, key)) = &settings.identity_files {
                let (certificate, key) = (read("identity_files", certificate)?, read("identity_files", key)?);
                config = config.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = settings.domain_name {
                config = config.domain_name(name);
            }
            endpoint = endpoint.tls_config(config).map_err(|error| unusable("tls", error))?;
        }
        let token = settings.token.or_else(|| variable("OPTSERVE_TOKEN"));
        let token = token.map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose();
        let mut token = token.map_err(|error| unusable("token", error))?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        Ok(Self { channel: endpoint.connect_lazy(), token, timeout: settings.timeout })
    }

    /// The same client with another [`Settings::timeout`].
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The gRPC channel, for services that this client does not cover, such as `grpc.health.v1`. The token is
    /// not added to its calls.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

fn unusable(setting: &str, cause: impl std::fmt::Display) -> Error {
    Error::invalid(ErrorReason::UnsupportedValue, setting, format!("{setting} cannot be used: {cause}"))
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| unusable(setting, error))
}
