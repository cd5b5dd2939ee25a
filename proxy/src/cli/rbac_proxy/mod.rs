//! `outrider rbac-proxy`: in the place of kube-rbac-proxy, by its own flags and its own file.
//!
//! Makes our ordinary configuration and our ordinary pipeline (TokenReview or JWT, SubjectAccessReview, headers) and runs
//! the ordinary server in front of `--upstream`. Speaks no dialect, so no question is open to all.

mod authorization;
mod flags;
mod folder;
mod globs;
mod oidc;
mod relay;
mod template;
mod words;

pub use flags::Args;

use crate::auth::credential::Location;
use crate::auth::methods::token_review::{self, TokenReview};
use crate::auth::methods::{Method, Tools, jwt};
use crate::auth::pipeline::{Authentication, Evaluator, Make, Output, Phase, Pipeline, Place};
use crate::auth::responses::Response;
use crate::auth::rules::access_review::{self, AccessReview, Reviewer};
use crate::auth::verdicts::Limits;
use crate::auth::{Authenticator, rules::Rule};
use crate::config::{self, Audiences, Config, Kubernetes};
use crate::fetch::Trust;
use crate::kube::client::{Client, kubeconfig};
use crate::server::{self, Running};
use authorization::Authorization;
use folder::Folder;
use futures_util::future::BoxFuture;
use globs::Glob;
use http::HeaderName;
use relay::Relay;
use serde_json::{Value, json};
use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// The trust domain of a server that asks nobody for a certificate; only a name.
const TRUST_DOMAIN: &str = "cluster.local";

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let ignored = flags::judge(&args).map_err(|problems| problems.join("\n  "))?;
    for words in ignored {
        tracing::warn!("{words}");
    }
    // Kept until the server ends: files in it are read again.
    let mut folder = Folder::at(std::env::temp_dir().join(format!("outrider-rbac-proxy-{}", std::process::id())));
    let kubernetes = kubernetes(&args, &mut folder)?;
    let authenticator = authenticator(&args, kubernetes)?;
    let upstream = upstream(&args, &mut folder)?;
    let yaml = yaml(&args, &upstream)?;
    let config = Config::parse(&yaml.to_string(), Path::new(""), Path::new("the command line"))?;
    server::guard(config, authenticator, announce)?;
    Ok(())
}

fn announce(running: &Running) {
    super::proxy::announce(running);
}

/// The configuration that `outrider proxy` would be given.
fn yaml(args: &Args, upstream: &str) -> Result<Value, String> {
    let (text, mode) = match args.secure_listen_address.is_empty() {
        true => (&args.insecure_listen_address, "disable"),
        false => (&args.secure_listen_address, "simple"),
    };
    let listen = address(text)?;
    let mut tls = json!({"mode": mode, "trust_domain": TRUST_DOMAIN});
    match (&args.tls.tls_cert_file, &args.tls.tls_private_key_file) {
        _ if mode == "disable" => tls = json!({"mode": mode}),
        (Some(certificate), Some(key)) => {
            tls["certificate"] = json!(certificate);
            tls["key"] = json!(key);
        }
        // As kube-rbac-proxy does: encrypted, and proving nothing.
        _ => tls["self_signed"] = json!({"spiffe_id": format!("spiffe://{TRUST_DOMAIN}/rbac-proxy")}),
    }
    let healthz = (args.proxy_endpoints_port != 0).then(|| SocketAddr::new(listen.ip(), args.proxy_endpoints_port));
    let protocol = match args.upstream_force_h2c {
        true => "h2c",
        // Behind the relay is TLS, where HTTP/2 would have to be agreed on.
        false if upstream.starts_with("unix:") => "http1",
        false => "auto",
    };
    let mut forward = json!({
        "to": upstream,
        "protocol": protocol,
    });
    if !args.upstream_timeout.is_zero() {
        forward["response_timeout"] = json!(format!("{}ms", args.upstream_timeout.as_millis()));
    }
    Ok(json!({
        "listen": listen,
        "admin": args.admin_address,
        "healthz": healthz,
        "tls": tls,
        // Never asked: the pipeline made here takes its place.
        "auth": {"methods": [{"token_review": {}}]},
        "forward": forward,
        // kube-rbac-proxy has no bound; nothing of a body is kept here.
        "limits": {"streams_max": args.http2_max_concurrent_streams, "body_bytes_max": "1GiB"},
        "queue": {"bytes_max": "1GiB"},
    }))
}

/// `:8443`, `0.0.0.0:8443`, `localhost:8443`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()) {
        // As Go listens: both families, by the wildcard of IPv6 where there is one.
        let both = std::net::TcpListener::bind(("::", 0)).is_ok();
        return Ok(if both { ([0u16; 8], port).into() } else { ([0, 0, 0, 0], port).into() });
    }
    resolved(text).ok_or_else(|| format!("`{text}` is no address to listen on; write :8443 or 127.0.0.1:8443"))
}

/// IPv4 first: servers that listen on `localhost` are found there.
fn resolved(text: &str) -> Option<SocketAddr> {
    let mut all: Vec<SocketAddr> = text.to_socket_addrs().ok()?.collect();
    all.sort_by_key(SocketAddr::is_ipv6);
    all.first().copied()
}

/// Where requests go: the server, or, if it wants TLS, the socket of a relay to it.
fn upstream(args: &Args, folder: &mut Folder) -> Result<String, String> {
    let url = &args.upstream;
    let bad = || format!("--upstream={url}: write http://localhost:8080, or https://localhost:8443");
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().filter(|_| secure || uri.scheme_str() == Some("http")).ok_or_else(bad)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!("--upstream={url}: a path there is not served; requests keep their own"));
    }
    if !secure {
        let address = resolved(&format!("{host}:{}", uri.port_u16().unwrap_or(80)));
        let unknown = || format!("--upstream={url}: the name {host} cannot be resolved");
        return address.map(|address| address.to_string()).ok_or_else(unknown);
    }
    let trust = Trust {
        authorities: args.upstream_ca_file.clone(),
        identity: args.upstream_client_cert_file.clone().zip(args.upstream_client_key_file.clone()),
    };
    let relay = Relay::new(host, uri.port_u16().unwrap_or(443), trust);
    let relay = relay.map_err(|words| format!("--upstream={url}: {words}"))?;
    folder.make().map_err(|error| unwritable(folder, &error))?;
    let socket = folder.path().join("upstream.sock");
    relay.start(socket.clone()).map_err(|error| unwritable(folder, &error))?;
    Ok(format!("unix:{}", socket.display()))
}

fn unwritable(folder: &Folder, error: &std::io::Error) -> String {
    format!("cannot write below {}: {error}; mount an emptyDir there", folder.path().display())
}

fn kubernetes(args: &Args, folder: &mut Folder) -> Result<Kubernetes, String> {
    let Some(path) = &args.kubeconfig else {
        let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let server = of("KUBERNETES_SERVICE_HOST").map(|host| {
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            format!("https://{host}:{}", of("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".into()))
        });
        return Ok(Kubernetes::in_cluster(server));
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("--kubeconfig={}: {error}", path.display()))?;
    let base = path.parent().unwrap_or(Path::new(""));
    let (kubernetes, inline) =
        kubeconfig::parse(&text, base, folder.path()).map_err(|words| format!("{} {words}", path.display()))?;
    folder.write(inline).map_err(|error| unwritable(folder, &error))?;
    Ok(kubernetes)
}

fn globs(flag: &str, patterns: &[String]) -> Result<Vec<Glob>, String> {
    patterns.iter().map(|pattern| Glob::parse(pattern).map_err(|words| format!("{flag}: {words}"))).collect()
}

fn authorization(path: Option<&PathBuf>) -> Result<Authorization, String> {
    let Some(path) = path else { return Ok(Authorization::default()) };
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config-file={}: {error}", path.display()))?;
    Authorization::parse(&text).map_err(|words| format!("--config-file={}: {words}", path.display()))
}

/// Who calls, whether they may, and what the server behind is told.
fn authenticator(args: &Args, kubernetes: Kubernetes) -> Result<Authenticator, String> {
    let authorization = authorization(args.config_file.as_ref())?;
    let (allow, ignore) = (globs("--allow-paths", &args.allow_paths)?, globs("--ignore-paths", &args.ignore_paths)?);
    let limits = |limits: Limits| match args.kube_api_qps {
        qps if qps >= 1.0 => {
            let asking_max = if args.kube_api_burst > 0 { args.kube_api_burst.min(1024) } else { limits.asking_max };
            Limits { asked_per_second: qps as u32, asking_max, ..limits }
        }
        _ => limits,
    };
    let audiences = match args.auth.auth_token_audiences.is_empty() {
        true => Audiences::Server,
        false => Audiences::These(args.auth.auth_token_audiences.clone()),
    };
    let client = Client::new(kubernetes.clone());
    let review = config::TokenReview { audiences, kubernetes, limits: limits(Limits::TOKENS) };
    let tools = Tools::new();
    // One or the other, as in kube-rbac-proxy.
    let (kind, method): (_, Box<dyn Method>) = match oidc::open(&args.auth, &tools)? {
        Some(oidc) => (jwt::NAME, Box::new(oidc)),
        None => (token_review::NAME, Box::new(TokenReview::new(&review))),
    };
    let method = Authentication::new(method, Location::Bearer);
    let rule: Box<dyn Rule> = Box::new(AccessReview {
        reviewer: Reviewer::new(client, limits(access_review::LIMITS)).into(),
        ask: Box::new(move |root| authorization.questions(root)),
        denied: words::denied,
        unknown: words::unknown,
    });
    let mut responses = Vec::new();
    if args.auth.auth_header_fields_enabled {
        let separator = args.auth.auth_header_groups_field_separator.clone();
        responses.push(header(&args.auth.auth_header_user_field_name, Box::new(|user| Ok(user["username"].clone())))?);
        responses.push(header(
            &args.auth.auth_header_groups_field_name,
            Box::new(move |user| {
                let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
                Ok(groups.collect::<Vec<_>>().join(&separator).into())
            }),
        )?);
    }
    let pipeline = Pipeline {
        name: "rbac-proxy".into(),
        when: Some(Box::new(move |root| words::concerns(&allow, &ignore, root))),
        authentication: Phase::new(vec![Evaluator::new("token", kind, method)]),
        authorization: Phase::new(vec![Evaluator::new("access", access_review::NAME, rule)]),
        response: Phase::new(responses),
        explains: true,
        speaks: Some(words::refusal),
        ..Pipeline::default()
    };
    Ok(Authenticator::of_with(pipeline, tools))
}

/// A value made from the user that the TokenReview named.
struct Told(Make);

impl Response for Told {
    fn make<'a>(&'a self, root: &'a Value, _: u64) -> BoxFuture<'a, Result<Value, String>> {
        Box::pin(std::future::ready((self.0)(&root["auth"]["identity"]["user"])))
    }
}

fn header(name: &str, make: Make) -> Result<Evaluator<Output>, String> {
    let place = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no name of a header"))?;
    Ok(Evaluator::new(name, "header", Output { place: Place::Header(place), response: Box::new(Told(make)) }))
}

#[cfg(test)]
mod tests;
