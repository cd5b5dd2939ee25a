//! Where a question goes: a URL with placeholders, or one that an expression makes, and the hosts it may lead to.
//!
//! What a request says fills one path segment or one value of a query and cannot leave it. It chooses no host, unless
//! the operator listed those it may choose.

use crate::auth::expressions::Expression;
use crate::auth::selectors::Selector;
use crate::auth::site::HostPattern;
use crate::percent;
use http::Uri;
use serde_json::Value;

/// Longer ones are refused by many servers, and this is a question, not an upload.
const URL_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug)]
pub struct Address {
    parts: Parts,
    allowed: Allowed,
}

#[derive(Debug)]
enum Parts {
    Pieces(Vec<Piece>),
    Expression(Expression),
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Value(Selector, Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the path begins: scheme, host, port, or the whole URL.
    Origin,
    Path,
    Query,
}

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    https: bool,
    /// In lower case.
    host: String,
    port: u16,
}

#[derive(Debug)]
struct Allowed {
    /// Those that the policy's author wrote.
    origins: Vec<Origin>,
    /// Those that the operator lets a request choose.
    hosts: Vec<HostPattern>,
}

const NO_HOST: &str = "a request must not choose the host; write scheme://host/ without placeholders, or list the \
                       hosts that may be chosen";

impl Address {
    /// From a URL with `{selector}` placeholders.
    pub fn parse(template: &str, hosts: &[HostPattern]) -> Result<Address, String> {
        let (mut pieces, mut before, mut place, mut chosen) = (Vec::new(), String::new(), Place::Origin, false);
        for piece in split(template)? {
            match piece {
                Ok(literal) => {
                    let literal = percent::url(&literal)?;
                    before.push_str(&literal);
                    place = after(place, &literal, &before);
                    pieces.push(Piece::Text(literal));
                }
                Err(selector) => {
                    chosen |= place == Place::Origin;
                    let selector =
                        Selector::parse(&selector).map_err(|problem| format!("has a placeholder: {problem}"))?;
                    pieces.push(Piece::Value(selector, place));
                    // Something stands here: `http://{host}/` is past its host at the slash.
                    before.push('x');
                }
            }
        }
        let origins = match chosen {
            true if hosts.is_empty() => return Err(NO_HOST.into()),
            true => Vec::new(),
            false => vec![origin(&uri(&before)?)?],
        };
        Ok(Address { parts: Parts::Pieces(pieces), allowed: Allowed { origins, hosts: hosts.to_vec() } })
    }

    /// From an expression: it may lead where its own string literals lead, and to the listed hosts.
    ///
    /// What such an expression does with a path or a query is its author's business: we see only the whole.
    pub fn computed(expression: &str, hosts: &[HostPattern]) -> Result<Address, String> {
        let origins: Vec<Origin> =
            literals(expression).filter_map(|literal| uri(literal).and_then(|uri| origin(&uri)).ok()).collect();
        if origins.is_empty() && hosts.is_empty() {
            return Err(NO_HOST.replace("without placeholders", "as one literal"));
        }
        let parts = Parts::Expression(Expression::compile(expression).map_err(|words| words.to_string())?);
        Ok(Address { parts, allowed: Allowed { origins, hosts: hosts.to_vec() } })
    }

    pub fn resolve(&self, root: &Value) -> Result<Uri, String> {
        let url = match &self.parts {
            Parts::Pieces(pieces) => join(pieces, root)?,
            Parts::Expression(expression) => match expression.evaluate(root).map_err(|words| words.to_string())? {
                Value::String(url) => percent::url(&url)?,
                _ => return Err("the URL's expression gives no string".into()),
            },
        };
        if url.len() > URL_BYTES_MAX {
            return Err(format!("the URL has more than {URL_BYTES_MAX} bytes"));
        }
        let uri = uri(&url)?;
        if uri.path().split('/').any(is_dots) {
            // The server, or a proxy before it, would resolve them: out of the segment after all.
            return Err("the URL's path has a segment of dots".into());
        }
        self.allowed.check(&origin(&uri)?)?;
        Ok(uri)
    }
}

impl Allowed {
    fn check(&self, origin: &Origin) -> Result<(), String> {
        let allowed = self.origins.contains(origin) || self.hosts.iter().any(|host| host.matches(&origin.host));
        if allowed { Ok(()) } else { Err("the URL leads to a host that it must not".into()) }
    }
}

fn join(pieces: &[Piece], root: &Value) -> Result<String, String> {
    let mut url = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => url.push_str(text),
            Piece::Value(selector, place) => {
                let found = selector.find(root);
                if found.exhausted() {
                    return Err(selector.fault().words);
                }
                let text = found.text();
                if text.bytes().any(|byte| byte.is_ascii_control()) {
                    return Err("a value for the URL has a control character".into());
                }
                match place {
                    Place::Origin => url.push_str(&percent::url(&text)?),
                    Place::Path | Place::Query => percent::push_part(&text, &mut url),
                }
            }
        }
        if url.len() > URL_BYTES_MAX {
            break;
        }
    }
    Ok(url)
}

/// Where one is after `literal`, the end of `before`.
fn after(place: Place, literal: &str, before: &str) -> Place {
    match place {
        Place::Query => Place::Query,
        Place::Path if literal.contains('?') => Place::Query,
        Place::Path => Place::Path,
        Place::Origin => {
            let Some((_, rest)) = before.split_once("://") else { return Place::Origin };
            match rest.find(['/', '?']) {
                None => Place::Origin,
                Some(_) if rest.contains('?') => Place::Query,
                Some(_) => Place::Path,
            }
        }
    }
}

/// Literals (`Ok`) and placeholders (`Err`), by Authorino's rules: braces nest in a placeholder, and a backslash
/// outside of one takes the meaning from what follows it.
fn split(template: &str) -> Result<Vec<Result<String, String>>, String> {
    let (mut pieces, mut buffer, mut depth, mut escaping) = (Vec::new(), String::new(), 0_usize, false);
    for c in template.chars() {
        match (c, depth) {
            ('{', 0) if !escaping => {
                pieces.push(Ok(std::mem::take(&mut buffer)));
                depth = 1;
                continue;
            }
            ('{', 1..) => depth += 1,
            ('}', 1) => {
                pieces.push(Err(std::mem::take(&mut buffer)));
                depth = 0;
                continue;
            }
            ('}', 2..) => depth -= 1,
            ('\\', 0) if !escaping => {
                escaping = true;
                continue;
            }
            _ => {}
        }
        escaping = false;
        buffer.push(c);
    }
    if depth > 0 {
        return Err("a placeholder is not closed with }".into());
    }
    pieces.push(Ok(buffer));
    pieces.retain(|piece| !matches!(piece, Ok(text) | Err(text) if text.is_empty()));
    Ok(pieces)
}

/// String literals of an expression that have no escape in them.
fn literals(expression: &str) -> impl Iterator<Item = &str> {
    let mut rest = expression;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(['\'', '"'])?;
            let quote = char::from(rest.as_bytes()[start]);
            let inner = &rest[start + 1..];
            let mut escaped = false;
            let end = inner.find(|c| {
                let ends = c == quote && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })?;
            rest = &inner[end + 1..];
            if !inner[..end].contains('\\') {
                return Some(&inner[..end]);
            }
        }
    })
}

fn uri(text: &str) -> Result<Uri, String> {
    text.parse().map_err(|_| "is no URL; write http://host/path or https://host/path".to_owned())
}

fn origin(uri: &Uri) -> Result<Origin, String> {
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("is no URL; write http://host/path or https://host/path".into()),
    };
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err(
            "has a name or password before its host; put it into a Secret, and that into sharedSecretRef".into()
        );
    }
    // What follows the host is a port, or the author meant something else.
    let port = match &authority.as_str()[authority.host().len()..] {
        "" | ":" => {
            if https {
                443
            } else {
                80
            }
        }
        port => port[1..].parse().map_err(|_| "has a port that is none")?,
    };
    Ok(Origin { https, host: authority.host().to_ascii_lowercase(), port })
}

fn is_dots(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}
