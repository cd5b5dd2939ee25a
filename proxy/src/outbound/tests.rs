//! The way out against real servers on the loopback: hyper for HTTP, bare sockets for the rest.

mod bytes;
mod harness;
mod http;
mod policy;
mod tls;
