//! What pingora says of a caller whose body could not be read, in our own words.

use crate::error::Error;
use pingora_core::ErrorType as E;

pub(super) fn error_of(error: &pingora_core::Error, head_sent: bool) -> Error {
    match error.etype() {
        E::Custom("InvalidChunk" | "InvalidTrailerEnd") if !head_sent => {
            Error::invalid("the body's chunked encoding is broken")
        }
        E::InvalidHTTPHeader if !head_sent => {
            Error::invalid("a header that says how the request is to be passed on makes no sense")
        }
        _ => Error::CallerLeft,
    }
}
