//! The messages of errors.

pub(crate) mod rpc {
    #![allow(clippy::all, clippy::pedantic, dead_code, missing_docs, rustdoc::all)]

    include!("generated/google.rpc.rs");
}
