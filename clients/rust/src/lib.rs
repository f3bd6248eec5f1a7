//! Takes optimizer steps on an [optserve](https://github.com/optserve/optserve) server: the server holds
//! parameters and optimizer state, the client sends gradients and gets parameters back, as flat slices by
//! name.
//!
//! ```no_run
//! use optserve::{Client, Step, v1::AdamSpec};
//!
//! # async fn run() -> optserve::Result<()> {
//! let client = Client::connect("localhost:50051").await?;
//! let mut w = vec![0.0_f32; 3];
//! let adam = AdamSpec { learning_rate: Some(0.1), ..Default::default() };
//! let mut session = client.create_session(adam, [optserve::value("w", &w)]).await?;
//! let gradient = vec![0.5_f32; 3];
//! let result = session.step_into(Step::new([("w", &gradient)]), [("w", &mut w)]).await?;
//! println!("step {}: {w:?}", result.step);
//! # Ok(())
//! # }
//! ```
//!
//! # Specifications
//!
//! Specifications are messages of the contract in [`v1`]. An algorithm converts into the specification of
//! its family and of a session, so that further fields are added as in
//!
//! ```
//! use optserve::v1::{AdamSpec, Convention, OptimizerSpec, SessionSpec};
//!
//! let spec = SessionSpec {
//!     decoupled_weight_decay: Some(0.01),
//!     ..OptimizerSpec { convention: Convention::Torch.into(), ..AdamSpec::default().into() }.into()
//! };
//! ```
//!
//! # Tensors
//!
//! Gradients are slices or vectors of [`Element`]s. The elements of a slice are written into the chunks
//! that are sent; those of a pull are read from the chunks into the caller's slice, or into a [`Tensor`].
//!
//! # Exactly once
//!
//! Every step carries the name of its worker and a number, every other change a request id. A call that
//! meets an unreachable server is repeated until its deadline, and is applied once. If that fails too,
//! [`ErrorDetails::applied`] says whether the change may have been applied; the same call again settles it.
//!
//! # Deadlines and cancellation
//!
//! A call has a minute with all its attempts, and a second more for each 10 MB; see [`Settings::timeout`].
//! To cancel a call, drop its future.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod v1;

mod call;
mod client;
mod error;
mod google;
mod layout;
mod membership;
#[cfg(feature = "ndarray")]
mod ndarray;
mod payload;
mod reception;
mod retry;
mod session;
mod snapshots;
mod step;
mod stream;
mod tensor;

pub use half::{bf16, f16};
pub use tonic::Code;

pub use call::Rpc;
pub use client::{Client, Settings};
pub use error::{Applied, Error, ErrorDetails, Result};
pub use session::{Events, Parameters, Session, initialized, value};
pub use step::{Step, StepResult};
pub use stream::StepStream;
pub use tensor::{Element, Tensor, TensorMut, Tensors};

/// Random bytes of the operating system.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::getrandom(&mut bytes).expect("the operating system has random bytes");
    bytes
}
