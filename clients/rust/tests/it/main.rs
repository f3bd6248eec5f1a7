//! Tests of the client against real servers.

mod errors;
mod faults;
mod programs;
mod server;
mod training;
