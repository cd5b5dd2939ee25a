pub mod socket;
pub use socket::SocketError;
