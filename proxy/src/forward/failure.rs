//! What pingora says of a passage that failed, in our own words.

use crate::error::Error;
use pingora_core::{ErrorSource, ErrorType};

pub(super) fn error_of(error: &pingora_core::Error, head_sent: bool) -> Error {
    use ErrorType as E;
    match (error.esource(), error.etype()) {
        (_, E::Custom("InvalidChunk" | "InvalidTrailerEnd")) if !head_sent => {
            Error::invalid("the body's chunked encoding is broken")
        }
        (ErrorSource::Downstream, E::InvalidHTTPHeader) if !head_sent => {
            Error::invalid("a header that says how the request is to be passed on makes no sense")
        }
        (ErrorSource::Downstream, _) => Error::CallerLeft,
        (_, E::ConnectTimedout | E::ConnectRefused | E::ConnectNoRoute | E::ConnectError | E::BindError) => {
            Error::WorkerGone
        }
        (_, E::SocketError) => Error::WorkerGone,
        (_, E::ReadTimedout | E::WriteTimedout) => Error::UpstreamTimeout,
        (_, E::InvalidHTTPHeader | E::H1Error | E::H2Error | E::InvalidH2 | E::H2Downgrade) if !head_sent => {
            Error::WorkerNonsense { reason: "it broke the protocol".into() }
        }
        _ => Error::WorkerLost,
    }
}
