//! The messages of the contract `optserve.v1`, with the clients of its services.

#![allow(clippy::all, clippy::pedantic, rustdoc::all)]

include!("generated/optserve.v1.rs");
include!("generated/conversions.rs");
