//! What an activator and an ingress say to the sidecar, taken out of a request before anybody else sees it. Pure.

use super::forwarded;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};

/// `activator` where one passed the request on, and has counted it.
const PROXIED: HeaderName = HeaderName::from_static("k-proxy-request");
/// The host the caller named, where an activator had to name another.
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("k-original-host");
/// For the way here only.
const STRIPPED: [HeaderName; 6] = [
    HeaderName::from_static("knative-serving-revision"),
    HeaderName::from_static("knative-serving-namespace"),
    HeaderName::from_static("knative-serving-tag"),
    HeaderName::from_static("knative-serving-default-route"),
    HeaderName::from_static("k-passthrough-lb"),
    PROXIED,
];

/// What was said to us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// An activator passed it on.
    pub proxied: bool,
    /// The host that policy and app are to see, in the place of the one that was named.
    pub host: Option<Authority>,
}

/// Changes the headers as the app, and policy before it, should see them.
pub fn prepare(headers: &mut HeaderMap) -> Said {
    let proxied = headers.contains_key(PROXIED);
    let host = headers.remove(ORIGINAL_HOST);
    let host = host.filter(|host| !host.is_empty()).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    for name in &STRIPPED {
        headers.remove(name);
    }
    if let Some(host) = &host
        && headers.contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(host.as_str())
    {
        headers.insert(HOST, value);
    }
    forwarded::synthesize(headers);
    Said { proxied, host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_the_app_see_of_what_was_for_us() {
        let lines = [
            ("host", "10.0.0.7:8012"),
            ("k-original-host", "model.ns.example.com"),
            ("k-proxy-request", "activator"),
            ("knative-serving-revision", "model-00001"),
            ("knative-serving-namespace", "ns"),
            ("x-forwarded-for", "10.1.1.1"),
            ("x-own", "1"),
        ];
        let lines = lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers: HeaderMap = lines.into_iter().collect();
        let said = prepare(&mut headers);
        assert!(said.proxied);
        assert_eq!(said.host.unwrap().as_str(), "model.ns.example.com");
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["forwarded", "host", "x-forwarded-for", "x-own"]);
        assert_eq!(headers[HOST], "model.ns.example.com");
    }

    #[test]
    fn is_a_host_that_is_none_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a"));
        for bad in ["", "a b", "a/b", "a@", "\u{1f}"] {
            let Ok(value) = HeaderValue::from_bytes(bad.as_bytes()) else { continue };
            headers.insert(ORIGINAL_HOST, value);
            let said = prepare(&mut headers);
            assert!(said.host.is_none() || bad == "a@", "{bad:?} {said:?}");
            headers.insert(HOST, HeaderValue::from_static("a"));
        }
    }
}
