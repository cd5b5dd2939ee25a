//! What will be spoken inside a connection, by the name it was negotiated under (RFC 7301): the standard names and
//! Istio's.
//!
//! Istio's proxies name the same protocols differently when the peer is a mesh workload: `istio-h2`, `istio-http/1.1`,
//! and `istio` for bytes of which nothing is known.

/// What a server takes, in its order of preference.
///
/// Names of HTTP come before those of opaque bytes, for Istio's clients offer `istio` beside every one of them. Of the
/// opaque ones `istio-peer-exchange` is last: whoever agrees to it is sent a header of metadata before the first byte.
pub const SERVER_NAMES: &[&[u8]] =
    &[b"h2", b"http/1.1", b"istio-h2", b"istio-http/1.1", b"istio-http/1.0", b"istio", b"istio-peer-exchange"];

/// What follows the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    H2,
    /// Also where nothing was negotiated.
    Http1,
    /// Bytes of which nothing is known.
    Opaque,
}

impl Alpn {
    /// Of the name that was negotiated, if one was.
    pub fn of(name: Option<&[u8]>) -> Alpn {
        match name {
            Some(b"h2" | b"istio-h2") => Alpn::H2,
            Some(b"istio" | b"istio-peer-exchange") => Alpn::Opaque,
            _ => Alpn::Http1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_each_name() {
        let cases: [(Option<&[u8]>, Alpn); 6] = [
            (None, Alpn::Http1),
            (Some(b"http/1.1"), Alpn::Http1),
            (Some(b"istio-http/1.1"), Alpn::Http1),
            (Some(b"istio-h2"), Alpn::H2),
            (Some(b"istio"), Alpn::Opaque),
            (Some(b"istio-peer-exchange"), Alpn::Opaque),
        ];
        for (name, want) in cases {
            assert_eq!(Alpn::of(name), want);
        }
    }
}
