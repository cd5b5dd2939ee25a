//! What the tests stand on: the real binaries, the real models, real sockets. No test logic of its own.

pub mod authconfigs;
pub mod authority;
pub mod authorizer;
pub mod client;
pub mod envoy;
pub mod netns;
pub mod places;
pub mod proxy;
pub mod python;
pub mod up;
pub mod upstream;
pub mod wire;
pub mod worker;
