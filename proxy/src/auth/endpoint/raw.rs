//! The settings of an endpoint as AuthConfig spells them, and what is wrong with them.
//!
//! Whatever cannot work is said when a policy is read, not when a caller waits.

use super::{Address, Body, ContentType, Credential, Endpoint, Grant, Tokens, timeout};
use crate::auth::ConfigProblem;
use crate::auth::credential::Location;
use crate::auth::site::{Site, problem, sound};
use crate::auth::values::{RawValueFrom, ValueFrom};
use http::{HeaderName, Method, Uri, header};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Set by the connection or by ourselves; a policy that sets them would split or misroute the question.
const OURS: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// `HttpEndpointSpec` of AuthConfig v1beta3.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawHttpEndpoint {
    pub url: Option<String>,
    pub url_expression: Option<String>,
    pub method: Option<String>,
    pub body: Option<RawValueFrom>,
    #[serde(default)]
    pub body_parameters: BTreeMap<String, RawValueFrom>,
    pub content_type: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, RawValueFrom>,
    pub shared_secret_ref: Option<RawSecretKey>,
    pub oauth2: Option<RawOauth2>,
    #[serde(default)]
    pub credentials: RawCredentials,
    /// Milliseconds.
    pub timeout: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSecretKey {
    pub name: String,
    pub key: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawOauth2 {
    token_url: String,
    client_id: String,
    client_secret_ref: RawSecretKey,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    extra_params: BTreeMap<String, String>,
    cache: Option<bool>,
    timeout: Option<u64>,
}

/// Where a credential is, one place at most; none: `Authorization: Bearer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawCredentials {
    authorization_header: Option<RawPrefixed>,
    custom_header: Option<RawNamed>,
    query_string: Option<RawNamed>,
    cookie: Option<RawNamed>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrefixed {
    prefix: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNamed {
    name: String,
}

impl RawCredentials {
    pub fn compile(self) -> Result<Location, String> {
        let places = [self.authorization_header.is_some(), self.custom_header.is_some(), self.query_string.is_some()];
        if places.iter().filter(|given| **given).count() + usize::from(self.cookie.is_some()) > 1 {
            return Err("names more than one place; keep one".into());
        }
        if let Some(header) = self.custom_header {
            let name = HeaderName::try_from(&header.name).map_err(|_| format!("{:?} names no header", header.name))?;
            return Ok(Location::Header(name, String::new()));
        }
        if let Some(parameter) = self.query_string {
            return Ok(Location::Parameter(parameter.name));
        }
        if let Some(cookie) = self.cookie {
            let is_token = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b);
            if cookie.name.is_empty() || !cookie.name.bytes().all(is_token) {
                return Err(format!("{:?} names no cookie", cookie.name));
            }
            return Ok(Location::Cookie(cookie.name));
        }
        match self.authorization_header.and_then(|header| header.prefix).as_deref() {
            None | Some("" | "Bearer") => Ok(Location::Bearer),
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => {
                Ok(Location::Header(header::AUTHORIZATION, format!("{prefix} ")))
            }
            Some(prefix) => Err(format!("{prefix:?} cannot begin a header")),
        }
    }
}

impl RawHttpEndpoint {
    pub fn compile(self, path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Endpoint> {
        let before = problems.len();
        let address = match (&self.url, &self.url_expression) {
            (_, Some(expression)) if !expression.is_empty() => {
                Address::computed(expression, site.hosts).map_err(|words| ("urlExpression", words))
            }
            (Some(url), _) => Address::parse(url, site.hosts).map_err(|words| ("url", words)),
            (None, _) => Err(("url", "is needed".into())),
        };
        let address = address.map_err(|(key, words)| problem(problems, format!("{path}.{key}"), words)).ok();
        let timeout = timeout(self.timeout);
        let credential = self.credential(path, site, problems);
        let method = method(self.method.as_deref());
        let method = method.map_err(|words| problem(problems, format!("{path}.method"), words)).ok();
        let headers = headers(self.headers, credential.as_ref().map(|(location, _)| location), path, problems);
        let raw = RawBody { whole: self.body, fields: self.body_parameters, content_type: self.content_type };
        let body = raw.compile(method.as_ref().unwrap_or(&Method::POST), path, problems);
        if problems.len() > before {
            return None;
        }
        Some(Endpoint {
            address: address?,
            method: method?,
            body: body?,
            headers,
            credential,
            timeout,
            any_status: site.any_status,
            client: site.client.clone(),
        })
    }

    fn credential(
        &self,
        path: &str,
        site: &Site<'_>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Option<(Location, Credential)> {
        let location = self.credentials.clone().compile();
        let location = location.map_err(|words| problem(problems, format!("{path}.credentials"), words)).ok();
        // Of both, the token is shown: so Authorino documents it.
        let credential = match (&self.oauth2, &self.shared_secret_ref) {
            (Some(raw), _) => raw.clone().compile(site).map(|tokens| Credential::Granted(Box::new(tokens))),
            (None, Some(secret)) => site
                .secret(&secret.name, &secret.key)
                .map(Credential::Shared)
                .map_err(|words| ("sharedSecretRef", words)),
            (None, None) => return None,
        };
        match credential {
            Ok(credential) => Some((location?, credential)),
            Err((key, words)) => {
                problem(problems, format!("{path}.{key}"), words);
                None
            }
        }
    }
}

impl RawOauth2 {
    fn compile(self, site: &Site<'_>) -> Result<Tokens, (&'static str, String)> {
        let secret = site.secret(&self.client_secret_ref.name, &self.client_secret_ref.key);
        let grant = Grant {
            url: absolute(&self.token_url).map_err(|words| ("oauth2.tokenUrl", words))?,
            id: self.client_id,
            secret: secret.map_err(|words| ("oauth2.clientSecretRef", words))?,
            scopes: self.scopes,
            extra: self.extra_params,
            timeout: timeout(self.timeout),
        };
        Ok(Tokens::new(site.client.clone(), grant, self.cache.unwrap_or(true)))
    }
}

/// A URL in which nothing is to be filled.
pub fn absolute(url: &str) -> Result<Uri, String> {
    Address::parse(&url.replace('\\', "\\\\").replace('{', "\\{"), &[])?.resolve(&serde_json::Value::Null)
}

fn method(given: Option<&str>) -> Result<Method, String> {
    match given {
        None | Some("GET") => Ok(Method::GET),
        Some(name @ ("POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS")) => {
            Ok(name.parse().expect("the name of a method is one"))
        }
        Some(other) => Err(format!("{other:?} asks nothing of a server; GET and POST do")),
    }
}

fn headers(
    raw: BTreeMap<String, RawValueFrom>,
    credential: Option<&Location>,
    path: &str,
    problems: &mut Vec<ConfigProblem>,
) -> Vec<(HeaderName, ValueFrom)> {
    let taken = match credential {
        Some(Location::Bearer) => Some(&header::AUTHORIZATION),
        Some(Location::Header(name, _)) => Some(name),
        Some(Location::Cookie(_)) => Some(&header::COOKIE),
        Some(Location::Parameter(_)) | None => None,
    };
    let mut headers = Vec::new();
    for (name, value) in raw {
        let path = format!("{path}.headers.{name}");
        let value = sound(value.compile(&path), problems);
        match HeaderName::try_from(&name) {
            Err(_) => problem(problems, path, "names no header"),
            Ok(name) if OURS.contains(&name) => problem(problems, path, "is set by the connection, not by a policy"),
            Ok(name) if taken == Some(&name) => problem(problems, path, "is where the credential goes already"),
            Ok(name) if headers.iter().any(|(other, _)| *other == name) => problem(problems, path, "is there twice"),
            Ok(name) => headers.extend(value.map(|value| (name, value))),
        }
    }
    headers
}

struct RawBody {
    whole: Option<RawValueFrom>,
    fields: BTreeMap<String, RawValueFrom>,
    content_type: Option<String>,
}

impl RawBody {
    fn compile(self, method: &Method, path: &str, problems: &mut Vec<ConfigProblem>) -> Option<Body> {
        let content_type = match self.content_type.as_deref() {
            None | Some("" | "application/x-www-form-urlencoded") => ContentType::Form,
            Some("application/json") => ContentType::Json,
            Some(other) => {
                let words = "is neither application/x-www-form-urlencoded nor application/json";
                problem(problems, format!("{path}.contentType"), format!("{other:?} {words}"));
                return None;
            }
        };
        // Authorino, too, sends these without a body, whatever is configured: its schema says so, and so do we.
        if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            return Some(Body::None);
        }
        if let Some(whole) = self.whole {
            return Some(Body::Whole(sound(whole.compile(&format!("{path}.body")), problems)?, content_type));
        }
        let mut fields = Vec::new();
        for (name, value) in self.fields {
            let value = sound(value.compile(&format!("{path}.bodyParameters.{name}")), problems)?;
            fields.push((name, value));
        }
        Some(Body::Fields(fields, content_type))
    }
}
