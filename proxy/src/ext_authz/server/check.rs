//! What a gateway asks, as the rooms that decide want it. Pure: time and chance are arguments.
//!
//! What is ambiguous is refused, for the gateway would forward one reading while another was judged.

use super::attributes;
use crate::auth::Request;
use crate::downstream::canonical;
use crate::message::Head;
use crate::tls::{Peer, SpiffeId};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use outrider_protos::ext_authz::v3::attribute_context::{self, HttpRequest};
use outrider_protos::ext_authz::v3::{AttributeContext, CheckRequest};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What operators write into the gateway's configuration to choose the policy, instead of the host that was asked for.
const LOOKUP: &str = "host";
const REQUEST_ID: &str = "x-request-id";

/// A question that makes sense.
#[derive(Clone, Debug)]
pub struct Check {
    pub head: Head,
    /// Of the gateway's caller, by the gateway's word.
    pub peer: Peer,
    /// As it was asked for, port included.
    pub host: String,
    /// By which the policy is looked up: the host, unless the gateway says another.
    pub lookup: String,
    pub destination: SocketAddr,
    pub now_unix: u64,
    /// What a gateway may say beyond that, in the places where rules look for it.
    pub extra: Value,
}

impl Check {
    /// `draw_id` is asked only if the gateway names the request nowhere. An error says why nothing can be decided.
    pub fn of(request: CheckRequest, now_unix: u64, draw_id: impl FnOnce() -> String) -> Result<Check, &'static str> {
        let mut attributes = request.attributes.ok_or("it has no attributes")?;
        let http =
            attributes.request.as_mut().and_then(|request| request.http.take()).ok_or("it has no request.http")?;
        let headers = headers(&http)?;
        let named = [headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default(), http.id.as_str()];
        let request_id = named.into_iter().find(|id| !id.is_empty()).map_or_else(draw_id, str::to_owned);
        let (path, query) = target(&http)?;
        let method = http.method.parse::<Method>().map_err(|_| "its method is none")?;
        let head = Head {
            method,
            path,
            query,
            headers,
            version: version(&http.protocol),
            request_id,
            arrived_unix_seconds: now_unix,
        };
        let lookup = attributes.context_extensions.get(LOOKUP).unwrap_or(&http.host).clone();
        Ok(Check {
            peer: peer(&attributes, &http),
            destination: address(attributes.destination.as_ref()),
            lookup,
            host: http.host.clone(),
            now_unix,
            extra: attributes::extra(&attributes, &http),
            head,
        })
    }

    /// For methods and rules.
    pub fn request(&self) -> Request<'_> {
        Request {
            head: &self.head,
            peer: &self.peer,
            // Which policy it is; rules see the host that was asked for, which `extra` has.
            host: &self.lookup,
            destination: self.destination,
            now_unix: self.now_unix,
            extra: Some(&self.extra),
        }
    }
}

/// Those of HTTP/2's pseudo-headers that Envoy mixes in are said elsewhere.
fn headers(http: &HttpRequest) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::with_capacity(http.headers.len());
    let mut add = |name: &str, value: &[u8]| {
        if name.starts_with(':') {
            return Ok(());
        }
        let name: HeaderName = name.parse().map_err(|_| "the name of a header is none")?;
        let value = HeaderValue::from_bytes(value).map_err(|_| "the value of a header is none")?;
        headers.try_append(name, value).map(|_| ()).map_err(|_| "it has too many headers")
    };
    for (name, value) in &http.headers {
        add(name, value.as_bytes())?;
    }
    for line in http.header_map.iter().flat_map(|map| &map.headers) {
        let value = if line.raw_value.is_empty() { line.value.as_bytes() } else { &line.raw_value[..] };
        add(&line.key, value)?;
    }
    Ok(headers)
}

/// Canonical path, and query. A gateway that sends the query by itself leaves it out of the path.
fn target(http: &HttpRequest) -> Result<(String, Option<String>), &'static str> {
    let (path, query) = match http.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (http.path.as_str(), (!http.query.is_empty()).then_some(http.query.as_str())),
    };
    let path = canonical(path).map_err(|_| "its path can be read in two ways, or in none")?;
    Ok((path, query.map(str::to_owned)))
}

/// As Envoy spells it.
fn version(protocol: &str) -> Version {
    match protocol {
        "HTTP/2" | "HTTP/2.0" => Version::HTTP_2,
        "HTTP/3" | "HTTP/3.0" => Version::HTTP_3,
        "HTTP/1.0" => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

fn peer(attributes: &AttributeContext, http: &HttpRequest) -> Peer {
    let source = attributes.source.as_ref();
    let spiffe = source.and_then(|source| SpiffeId::parse(&source.principal).ok());
    let sni = attributes.tls_session.as_ref().map(|session| session.sni.clone()).filter(|sni| !sni.is_empty());
    let tls = http.scheme == "https" || spiffe.is_some() || sni.is_some();
    Peer { spiffe, tls, address: address(source), sni, not_after_unix: None }
}

/// Unspecified where it is not said, or is no address (a pipe): no rule about addresses holds of it.
fn address(end: Option<&attribute_context::Peer>) -> SocketAddr {
    let socket = end.and_then(|end| end.address.as_ref()?.socket_address.as_ref());
    let ip = socket.and_then(|socket| socket.address.parse::<IpAddr>().ok());
    let port = socket.and_then(|socket| u16::try_from(socket.port_value).ok());
    SocketAddr::new(ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port.unwrap_or(0))
}
