//! The messages of the contract `optserve.v1`; [`crate::Client::call`] takes the requests.

#![allow(clippy::all, clippy::pedantic, rustdoc::all)]

include!("generated/optserve.v1.rs");
include!("generated/conversions.rs");
include!("generated/methods.rs");
