//! External authorization, as Envoy defines it: asked of others, and answered in their place.
//!
//! [`client`] asks the authorizers that CUSTOM policies name; [`server`] is one, for a gateway that asks us. The wire is
//! the same; neither knows the other.

pub mod client;
pub mod server;
