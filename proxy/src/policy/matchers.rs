//! The patterns of a policy, compiled: text with a star at one end, address blocks, path templates, principals.
//!
//! Matching never allocates and never fails; whatever is wrong with a pattern is said when it is compiled.

use crate::tls::identity::SpiffeId;
use std::net::IpAddr;

/// `*` (anything but nothing), `abc`, `abc*`, `*abc`. A star elsewhere is a plain character, as in Istio.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    NonEmpty,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
}

impl Text {
    pub fn new(pattern: &str) -> Text {
        if pattern == "*" {
            Text::NonEmpty
        } else if let Some(suffix) = pattern.strip_prefix('*') {
            Text::Suffix(suffix.as_bytes().into())
        } else if let Some(prefix) = pattern.strip_suffix('*') {
            Text::Prefix(prefix.as_bytes().into())
        } else {
            Text::Exact(pattern.as_bytes().into())
        }
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Text::NonEmpty => !text.is_empty(),
            Text::Exact(all) => **all == *text,
            Text::Prefix(prefix) => text.starts_with(prefix),
            Text::Suffix(suffix) => text.ends_with(suffix),
        }
    }

    /// RFC 9110, section 4.2.3: the case of a host does not matter.
    pub fn matches_any_case(&self, text: &[u8]) -> bool {
        match self {
            Text::NonEmpty => !text.is_empty(),
            Text::Exact(all) => all.eq_ignore_ascii_case(text),
            Text::Prefix(prefix) => text.get(..prefix.len()).is_some_and(|start| prefix.eq_ignore_ascii_case(start)),
            Text::Suffix(suffix) => {
                let at = text.len().checked_sub(suffix.len());
                at.is_some_and(|at| suffix.eq_ignore_ascii_case(&text[at..]))
            }
        }
    }
}

/// The name of a namespace, with stars anywhere: each stands for any characters, none included.
#[derive(Clone, Debug, PartialEq)]
pub struct Glob(Box<[u8]>);

impl Glob {
    pub fn new(pattern: &str) -> Glob {
        Glob(pattern.as_bytes().into())
    }

    pub fn matches(&self, text: &[u8]) -> bool {
        let (pattern, mut p, mut t) = (&self.0, 0, 0);
        // Where to go on after a mismatch: behind the last star, with it taking one character more.
        let mut retry: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    p += 1;
                    retry = Some((p, t));
                }
                Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
                _ => {
                    let Some((after_star, taken)) = retry else { return false };
                    retry = Some((after_star, taken + 1));
                    (p, t) = (after_star, taken + 1);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

/// Whether the id names a namespace that `fits`: what follows a segment `ns`, with something behind it.
///
/// Istio looks for `/ns/NS/` anywhere in the id, so ids with more segments count here too, unlike in
/// [`SpiffeId::namespace`]. Unlike there a star never reaches over a slash: `*a` means no service account in `sa`.
pub fn has_namespace(id: &SpiffeId, fits: impl Fn(&[u8]) -> bool) -> bool {
    let mut segments = id.path().split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let Some(namespace) = segments.peek().filter(|_| segment == "ns") else { continue };
        if fits(namespace.as_bytes()) && segments.clone().nth(1).is_some() {
            return true;
        }
    }
    false
}

/// `<namespace>/<service account>`, both exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

impl Account {
    /// `/ns/NS/`, perhaps more, then `sa/SA`, perhaps more: ids may carry further pairs.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let mut segments = id.path().split('/').skip(1);
        while let Some(segment) = segments.next() {
            let mut rest = segments.clone();
            if segment == "ns" && rest.next() == Some(&self.namespace) {
                while let Some(segment) = rest.next() {
                    if segment == "sa" && rest.clone().next() == Some(&self.name) {
                        return true;
                    }
                }
            }
        }
        false
    }
}

/// `<issuer>/<subject>` of a token, cut at the last slash: issuers hold slashes themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    issuer: Text,
    subject: Text,
}

impl Caller {
    pub fn new(pattern: &str) -> Caller {
        let (issuer, subject) = match (pattern, pattern.rsplit_once('/')) {
            ("*", _) => (Text::NonEmpty, Text::NonEmpty),
            (_, Some((issuer, subject))) if pattern.starts_with('*') => (Text::new(issuer), exact(subject)),
            (_, Some((issuer, subject))) if pattern.ends_with('*') => (exact(issuer), Text::new(subject)),
            (_, Some((issuer, subject))) => (exact(issuer), exact(subject)),
            (_, None) if pattern.starts_with('*') => (Text::NonEmpty, Text::new(pattern)),
            (_, None) if pattern.ends_with('*') => (Text::new(pattern), Text::NonEmpty),
            (_, None) => (exact(pattern), exact("")),
        };
        Caller { issuer, subject }
    }

    /// A token without a subject names nobody, whatever the pattern.
    pub fn matches(&self, issuer: &str, subject: &str) -> bool {
        !subject.is_empty() && self.issuer.matches(issuer.as_bytes()) && self.subject.matches(subject.as_bytes())
    }
}

fn exact(text: &str) -> Text {
    Text::Exact(text.as_bytes().into())
}

/// `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cidr {
    network: u128,
    mask: u128,
    is_v4: bool,
}

impl Cidr {
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|b| b.is_ascii_digit()) => {
                (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u32>().ok()?))
            }
            Some(_) => return None,
            None => (text.parse().ok()?, None),
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return None;
        }
        // `::ffff:10.0.0.0/104` is `10.0.0.0/8`: callers are compared in their IPv4 form.
        let (address, prefix) = match address.to_canonical() {
            canonical if canonical.is_ipv4() && width == 128 && prefix >= 96 => (canonical, prefix - 96),
            _ => (address, prefix),
        };
        let (bits, is_v4) = bits(address);
        let width = if is_v4 { 32 } else { 128 };
        let mask = if prefix == 0 { 0 } else { (u128::MAX >> (128 - width)) & (u128::MAX << (width - prefix)) };
        Some(Cidr { network: bits & mask, mask, is_v4 })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = bits(address.to_canonical());
        is_v4 == self.is_v4 && bits & self.mask == self.network
    }
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), true),
        IpAddr::V6(v6) => (u128::from(v6), false),
    }
}

/// A path: text, or a template of segments.
#[derive(Clone, Debug, PartialEq)]
pub enum Path {
    Text(Text),
    Template(Template),
}

/// `{*}` is one segment, not empty; `{**}` is any number of them and comes last of the operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// `None` is `{*}`.
    head: Vec<Option<Box<str>>>,
    /// What must end the path where there is a `{**}`.
    tail: Option<Box<str>>,
}

impl Path {
    pub fn parse(pattern: &str) -> Result<Path, &'static str> {
        if !pattern.contains("{*}") && !pattern.contains("{**}") {
            return Ok(Path::Text(Text::new(pattern)));
        }
        let rest = pattern.strip_prefix('/').ok_or("a path template begins with a slash")?;
        let (mut head, mut tail): (Vec<Option<Box<str>>>, Option<String>) = (Vec::new(), None);
        for segment in rest.split('/') {
            match (segment, &mut tail) {
                ("{*}" | "{**}", Some(_)) => return Err("no operator may follow `{**}` in a path template"),
                ("{*}", None) => head.push(None),
                ("{**}", None) => tail = Some(String::new()),
                (literal, _) if literal.contains(['*', '{', '}']) => {
                    return Err(
                        "in a path template `{*}` and `{**}` are whole segments, and `*`, `{`, `}` nothing else",
                    );
                }
                (literal, Some(tail)) => {
                    tail.push('/');
                    tail.push_str(literal);
                }
                (literal, None) => head.push(Some(literal.into())),
            }
        }
        Ok(Path::Template(Template { head, tail: tail.map(String::into_boxed_str) }))
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Path::Text(text) => text.matches(path.as_bytes()),
            Path::Template(template) => template.matches(path),
        }
    }
}

impl Template {
    fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for wanted in &self.head {
            let Some(behind) = rest.strip_prefix('/') else { return false };
            let end = behind.find('/').unwrap_or(behind.len());
            let segment = &behind[..end];
            let fits = match wanted {
                Some(literal) => **literal == *segment,
                None => !segment.is_empty(),
            };
            if !fits {
                return false;
            }
            rest = &behind[end..];
        }
        match &self.tail {
            Some(tail) => rest.strip_prefix('/').is_some_and(|rest| rest.ends_with(&**tail)),
            None => rest.is_empty(),
        }
    }
}
