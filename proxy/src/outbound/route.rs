//! Which route takes a request, and which of its clusters. Pure.
//!
//! The first route that matches is taken, in the order of the file. Never looks at a body.

use crate::config::outbound::{HostPattern, Route};
use http::HeaderMap;

/// What a request says about where it wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Lower case, without port and brackets.
    pub host: String,
    /// The port the connection was meant for, if it was intercepted, else the one the request names, else 80.
    pub port: u16,
}

impl Destination {
    /// Of `:authority` or `Host`; `None` if it cannot be one.
    pub fn parse(authority: &str, meant: Option<u16>) -> Option<Destination> {
        let authority: http::uri::Authority = authority.parse().ok()?;
        // Credentials before an @ have no place here, and would let two readers see two hosts.
        if authority.as_str().contains('@') {
            return None;
        }
        // `host:port` with a port that is no number is read differently by different readers.
        if authority.port_u16().is_none() && authority.host() != authority.as_str() {
            return None;
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        // A fully qualified name may end in a dot.
        let host = host.strip_suffix('.').map(String::from).unwrap_or(host);
        let port = meant.or(authority.port_u16()).unwrap_or(80);
        (!host.is_empty()).then_some(Destination { host, port })
    }
}

/// The first route that matches.
pub fn find<'a>(routes: &'a [Route], to: &Destination, path: &str, headers: &HeaderMap) -> Option<&'a Route> {
    routes.iter().find(|route| {
        (route.ports.is_empty() || route.ports.contains(&to.port))
            && (route.hosts.is_empty() || host_matches(route, to))
            && route.path_prefix.as_ref().is_none_or(|prefix| path_within(path, prefix))
            && route
                .headers
                .iter()
                .all(|(name, value)| headers.get_all(name).iter().any(|given| given.as_bytes() == value.as_bytes()))
    })
}

/// The first route for bytes of which only the port is known.
pub fn find_opaque(routes: &[Route], port: u16) -> Option<&Route> {
    routes.iter().find(|route| {
        let by_port_alone = route.hosts.is_empty() && route.path_prefix.is_none() && route.headers.is_empty();
        by_port_alone && route.ports.contains(&port)
    })
}

/// Whether any request to this port could find a route; if not, nobody need read what it says.
pub fn may_match(routes: &[Route], port: u16) -> bool {
    routes.iter().any(|route| {
        let by_host = route.hosts.is_empty() || route.hosts.iter().any(|host| host.port.is_none_or(|own| own == port));
        by_host && (route.ports.is_empty() || route.ports.contains(&port))
    })
}

fn host_matches(route: &Route, to: &Destination) -> bool {
    route.hosts.iter().any(|host| {
        let name = match &host.pattern {
            HostPattern::Exact(name) => to.host == *name,
            HostPattern::Suffix(suffix) => to.host.len() > suffix.len() && to.host.ends_with(suffix),
        };
        name && host.port.is_none_or(|port| port == to.port)
    })
}

/// `/v1` holds `/v1`, `/v1/x` and `/v1?q`, and not `/v10`.
fn path_within(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?'])
}

/// One of the route's clusters, by weight.
pub fn choose(route: &Route, chance: u64) -> usize {
    let sum: u64 = route.targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut ticket = ((u128::from(chance) * u128::from(sum)) >> 64) as u64;
    for (cluster, weight) in &route.targets {
        match ticket.checked_sub(u64::from(*weight)) {
            Some(left) => ticket = left,
            None => return *cluster,
        }
    }
    route.targets[0].0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;
    use std::path::Path;

    fn routes(yaml: &str) -> Vec<Route> {
        let text = format!(
            "tls: {{mode: disable}}\nauth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {{socket: w, models: [m]}}\n\
             outbound:\n  clusters: [{{name: a, endpoints: []}}, {{name: b, endpoints: []}}]\n  routes:\n{yaml}"
        );
        Config::parse(&text, Path::new("/"), Path::new("c.yaml")).unwrap().outbound.unwrap().routes
    }

    #[test]
    fn which_route_is_taken() {
        let routes = routes(
            r#"
    - {hosts: [models.local], path_prefix: /v1, cluster: a}
    - {hosts: ["*.example.com", "exact:8080", "[::1]:99"], cluster: a}
    - {hosts: [canary], headers: {X-Canary: "yes"}, cluster: b}
    - {ports: [5432], cluster: b}
"#,
        );
        let mut canary = HeaderMap::new();
        canary.insert("x-canary", "yes".parse().unwrap());
        let cases = [
            ("models.local", "/v1/x", Some(0)),
            ("MODELS.local.:80", "/v1?x", Some(0)),
            ("models.local", "/v10", None),
            ("a.example.com:4", "/", Some(1)),
            ("example.com", "/", None),
            (".example.com", "/", None),
            ("exact:8080", "/", Some(1)),
            ("exact:81", "/", None),
            ("[::1]:99", "/", Some(1)),
            ("whatever:5432", "/", Some(3)),
        ];
        for (authority, path, want) in cases {
            let to = Destination::parse(authority, None).unwrap();
            let found = find(&routes, &to, path, &HeaderMap::new());
            assert_eq!(
                found.map(|found| routes.iter().position(|r| std::ptr::eq(r, found)).unwrap()),
                want,
                "{authority}"
            );
        }
        let to = Destination::parse("canary", Some(81)).unwrap();
        assert!(find(&routes, &to, "/", &HeaderMap::new()).is_none() && find(&routes, &to, "/", &canary).is_some());
        assert!(find_opaque(&routes, 5432).is_some() && find_opaque(&routes, 80).is_none());
        assert!(may_match(&routes[1..2], 81) && !may_match(&routes[3..], 81));
    }

    #[test]
    fn which_authorities_are_destinations() {
        for bad in ["", "user@host", "a b", "host:port", ":80", "[::1", "a/b", "[]"] {
            assert_eq!(Destination::parse(bad, None), None, "{bad}");
        }
        assert_eq!(Destination::parse("A:1", Some(2)).unwrap(), Destination { host: "a".into(), port: 2 });
    }

    proptest! {
        #[test]
        fn do_weights_decide(chance in any::<u64>()) {
            let route = &routes("    - {clusters: [{name: a, weight: 1}, {name: b, weight: 3}]}")[0];
            prop_assert_eq!(choose(route, chance), usize::from(chance >= 1 << 62));
        }

        #[test]
        fn no_authority_makes_it_panic(text in ".{0,60}") {
            let _ = Destination::parse(&text, None);
        }
    }
}
