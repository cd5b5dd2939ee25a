//! The resources that a User-Managed Access server has registered for the path of the request (UMA Federated
//! Authorization 2.0, section 3).
//!
//! Asked with a token of our own (the protection API token). Tells what is registered; asks for no permission.

use super::{Fetched, Source};
use crate::auth::ConfigProblem;
use crate::auth::endpoint::{Discovery, Grant, Kept, Tokens, absolute, get, timeout};
use crate::auth::secrets::Hidden;
use crate::auth::site::{Site, parse, problem};
use crate::fetch::Client;
use crate::percent;
use futures_util::StreamExt;
use http::Uri;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const NAME: &str = "uma";

/// A path that more resources claim is a mistake there, and would be an avalanche of questions here.
const RESOURCES_MAX: usize = 64;
/// Questions about resources at the same time.
const AT_ONCE: usize = 8;
/// The server's endpoints, and with them its tokens, are looked up again after so long.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// `UmaMetadataSpec` of AuthConfig v1beta3.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    endpoint: String,
    credentials_ref: RawName,
    timeout: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawName {
    name: String,
}

struct Uma {
    client: Client,
    discovery: Discovery,
    id: Hidden,
    secret: Hidden,
    timeout: Duration,
    server: Kept<Protection>,
}

/// Where resources are registered, and our tokens for it.
struct Protection {
    resources: String,
    tokens: Tokens,
}

pub fn open(given: Value, path: &str, site: &Site<'_>, problems: &mut Vec<ConfigProblem>) -> Option<Box<dyn Source>> {
    let raw: Raw = parse(given, path, problems)?;
    let source = Uma::compile(&raw, site).map_err(|(key, words)| problem(problems, format!("{path}.{key}"), words));
    Some(Box::new(source.ok()?))
}

impl Uma {
    fn compile(raw: &Raw, site: &Site<'_>) -> Result<Uma, (&'static str, String)> {
        let secret = |key: &str| site.secret(&raw.credentials_ref.name, key).map_err(|words| ("credentialsRef", words));
        let (client, timeout) = (site.client.clone(), timeout(raw.timeout));
        let discovery = Discovery::new(client.clone(), &raw.endpoint, "uma2-configuration", timeout);
        Ok(Uma {
            client,
            discovery: discovery.map_err(|words| ("endpoint", words))?,
            id: secret("clientID")?,
            secret: secret("clientSecret")?,
            timeout,
            server: Kept::default(),
        })
    }

    async fn protection(&self) -> Result<Arc<Protection>, String> {
        let ask = || async {
            let grant = Grant {
                url: self.discovery.endpoint("token_endpoint").await?,
                id: self.id.reveal().to_owned(),
                secret: self.secret.clone(),
                scopes: Vec::new(),
                extra: BTreeMap::new(),
                timeout: self.timeout,
            };
            let resources = self.discovery.endpoint("resource_registration_endpoint").await?;
            let tokens = Tokens::new(self.client.clone(), grant, true);
            Ok((Protection { resources: resources.to_string().trim_end_matches('/').to_owned(), tokens }, KEPT))
        };
        self.server.get(ask).await
    }

    async fn ask(&self, root: &Value) -> Result<Value, String> {
        let server = self.protection().await?;
        let token = server.tokens.token().await?;
        let path = root["request"]["path"].as_str().ok_or("the request has no path")?;
        let ids = self.get(&server.at("?uri=", path)?, &token).await;
        let ids = ids.inspect_err(|_| server.tokens.refused(&token))?;
        let ids: Vec<String> = serde_json::from_value(ids).map_err(|_| "the answer is no list of resources")?;
        if ids.len() > RESOURCES_MAX {
            return Err(format!("more than {RESOURCES_MAX} resources have this path"));
        }
        let uris = ids.iter().map(|id| server.at("/", id)).collect::<Result<Vec<_>, _>>()?;
        let asked = futures_util::stream::iter(uris).map(|uri| {
            let token = token.clone();
            async move { self.get(&uri, &token).await }
        });
        // One that was unregistered meanwhile is left out, as Authorino does.
        let found = asked.buffered(AT_ONCE).filter_map(|resource| std::future::ready(resource.ok()));
        Ok(Value::Array(found.collect().await))
    }

    async fn get(&self, uri: &Uri, token: &Hidden) -> Result<Value, String> {
        get(&self.client, uri.clone(), Some(token.reveal()), self.timeout).await
    }
}

impl Protection {
    /// The registry's resource at an encoded value.
    fn at(&self, before: &str, value: &str) -> Result<Uri, String> {
        let mut url = format!("{}{before}", self.resources);
        percent::push_part(value, &mut url);
        absolute(&url)
    }
}

impl Source for Uma {
    fn fetch<'a>(&'a self, root: &'a Value) -> Fetched<'a> {
        Box::pin(self.ask(root))
    }
}
