//! What the tests stand on: the real binaries, the real models, real sockets. No test logic of its own.

pub mod client;
pub mod places;
pub mod python;
pub mod up;
pub mod worker;
