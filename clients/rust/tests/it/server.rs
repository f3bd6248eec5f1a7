//! A real server in a process of its own, and a network that fails.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use optserve::v1::{self, AdamSpec, SessionSpec, SgdSpec};
use optserve::{Client, Session, Tensor, value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a server until its standard input ends, as it does when the test program is gone.
const PROGRAM: &str = "
import os, runpy, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
runpy.run_module('optserve_server', run_name='__main__', alter_sys=True)
";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A Python that has the server: OPTSERVE_PYTHON, or the repository's own.
pub fn python() -> Command {
    let own = root().join(".venv/bin/python");
    let mut command = Command::new(std::env::var_os("OPTSERVE_PYTHON").map_or(own, PathBuf::from));
    command.current_dir(root());
    command
}

/// A folder that is deleted at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let unique = format!("{}-{:?}", std::process::id(), thread::current().id());
        let time = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let path = std::env::temp_dir().join(format!("optserve-rust-{unique}-{time}"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub struct Server {
    pub address: String,
    process: Child,
    _folder: Folder,
}

impl Server {
    /// Starts a server on a free port of the loopback address. Settings are flags, or, in capitals,
    /// environment variables.
    pub fn start(settings: &[&str]) -> Self {
        let folder = Folder::new();
        let (port_file, log) = (folder.path("port"), folder.path("log"));
        let mut command = python();
        command.args(["-c", PROGRAM, "--port=0", "--metrics-port=off", "--backend=numpy", "--data-port=off"]);
        command.arg(format!("--port-file={port_file}"));
        for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("OPTSERVE_")) {
            command.env_remove(variable);
        }
        for setting in settings {
            match setting.split_once('=') {
                Some((variable, value)) if !variable.starts_with("--") => command.env(variable, value),
                _ => command.arg(setting),
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut process = command.spawn().expect("a Python; run make .venv/.test, or set OPTSERVE_PYTHON");
        let begin = Instant::now();
        loop {
            let port = fs::read_to_string(&port_file).unwrap_or_default();
            if !port.trim().is_empty() {
                return Self { address: format!("127.0.0.1:{}", port.trim()), process, _folder: folder };
            }
            let has_ended = process.try_wait().unwrap().is_some();
            if has_ended || begin.elapsed() > START_TIMEOUT {
                panic!("the server did not start: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Ends the server at once, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The address of a server with a data directory that all tests of a program use.
pub fn shared() -> &'static str {
    static SERVER: OnceLock<(Server, Folder)> = OnceLock::new();
    let start = || {
        let data = Folder::new();
        (Server::start(&[&format!("--data-dir={}", data.path("data"))]), data)
    };
    &SERVER.get_or_init(start).0.address
}

pub async fn connect(address: &str) -> Client {
    Client::connect(address).await.unwrap()
}

pub fn sgd(rate: f64) -> SessionSpec {
    SgdSpec { learning_rate: Some(rate) }.into()
}

pub fn adam() -> SessionSpec {
    AdamSpec { learning_rate: Some(0.01), ..Default::default() }.into()
}

/// Creates a session with one parameter "w".
pub async fn session<'a>(client: &Client, spec: SessionSpec, w: impl Into<Tensor<'a>>) -> Session {
    client.create_session(spec, [value("w", w)]).await.unwrap()
}

/// Reads the description of a session.
pub async fn describe(client: &Client, name: &str) -> v1::Session {
    let request = v1::GetSessionRequest { name: name.to_owned(), ..Default::default() };
    client.call(request).await.unwrap().session.unwrap()
}

/// Saves a session on the server's disk.
pub async fn save(client: &Client, session: &Session) -> v1::Snapshot {
    let request = v1::CreateSnapshotRequest { name: session.name().to_owned(), ..Default::default() };
    client.call(request).await.unwrap().snapshot.unwrap()
}

/// Passes connections on to a server, and fails as a network does.
pub struct Proxy {
    pub address: String,
    state: Arc<State>,
}

struct State {
    upstream: Mutex<String>,
    /// Bytes to the server after which the next connection is cut.
    cut_after: Mutex<Option<usize>>,
    cuts: watch::Sender<()>,
    is_stalled: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            upstream: Mutex::new(upstream.to_owned()),
            cut_after: Mutex::new(None),
            cuts: watch::Sender::new(()),
            is_stalled: watch::Sender::new(false),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).serve(client));
            }
        });
        Self { address, state }
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.state.cuts.send_replace(());
    }

    /// Breaks the next connection after some bytes to the server.
    pub fn cut_next_after(&self, byte_count: usize) {
        *self.state.cut_after.lock().unwrap() = Some(byte_count);
    }

    /// Holds answers back, or passes them on again.
    pub fn stall(&self, is_stalled: bool) {
        self.state.is_stalled.send_replace(is_stalled);
    }

    /// Passes new connections on to another server.
    pub fn route(&self, upstream: &str) {
        *self.state.upstream.lock().unwrap() = upstream.to_owned();
    }
}

impl State {
    async fn serve(self: Arc<Self>, client: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let mut left = self.cut_after.lock().unwrap().take().unwrap_or(usize::MAX);
        let upstream = self.upstream.lock().unwrap().clone();
        let Ok(server) = TcpStream::connect(upstream).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = async {
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                let limit = buffer.len().min(left);
                let Ok(count @ 1..) = from_client.read(&mut buffer[..limit]).await else { break };
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
                left -= count;
            }
        };
        let down = async {
            let (mut buffer, mut stalled) = (vec![0; 1 << 16], self.is_stalled.subscribe());
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                let _ = stalled.wait_for(|is_stalled| !is_stalled).await;
                if to_client.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            _ = cuts.changed() => {}
        }
    }
}
