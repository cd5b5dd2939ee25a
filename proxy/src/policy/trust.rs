//! Trust domains as policies write them: `cluster.local` points at whatever the mesh's own is called, and the mesh may
//! have gone by other names before.
//!
//! Only the trust domain of a full principal is replaced; a principal of another shape stays as it is, as in Istio.

/// `cluster.local` in a policy means the mesh's own trust domain and its aliases, never literally itself.
const POINTER: &str = "cluster.local";

/// The mesh's own name first, then the names it had.
#[derive(Clone, Debug)]
pub struct TrustDomains(Vec<String>);

impl TrustDomains {
    pub fn new(own: &str, aliases: &[String]) -> TrustDomains {
        let mut all = vec![own.to_owned()];
        all.extend(aliases.iter().filter(|alias| *alias != own).cloned());
        TrustDomains(all)
    }

    /// A trust domain pattern under all names it has here.
    pub fn names(&self, pattern: &str) -> Vec<String> {
        if pattern == "*" || !self.is_ours(pattern) {
            return vec![pattern.to_owned()];
        }
        let name = |own: &String| if matches_suffix(own, pattern) { pattern.to_owned() } else { own.clone() };
        let mut names: Vec<String> = self.0.iter().map(name).collect();
        names.dedup();
        names
    }

    /// A principal pattern, `<trust domain>/ns/<namespace>/sa/<service account>`, under all names it has here.
    pub fn principals(&self, pattern: &str) -> Vec<String> {
        let Some((domain, rest)) = pattern.split_once('/').filter(|(_, rest)| rest.split('/').count() == 4) else {
            return vec![pattern.to_owned()];
        };
        self.names(domain).iter().map(|name| format!("{name}/{rest}")).collect()
    }

    fn is_ours(&self, pattern: &str) -> bool {
        pattern == POINTER || self.0.iter().any(|own| own == pattern || matches_suffix(own, pattern))
    }
}

/// `*.local` fits `cluster.local`.
fn matches_suffix(name: &str, pattern: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_which_names_is_a_principal_known() {
        let trust = TrustDomains::new("td", &["old".into()]);
        let cases: &[(&str, &[&str])] = &[
            ("cluster.local/ns/a/sa/b", &["td/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("td/ns/a/sa/b", &["td/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("old/ns/a/sa/*", &["td/ns/a/sa/*", "old/ns/a/sa/*"]),
            ("other/ns/a/sa/b", &["other/ns/a/sa/b"]),
            ("*/ns/a/sa/b", &["*/ns/a/sa/b"]),
            ("*d/ns/a/sa/b", &["*d/ns/a/sa/b"]),
            ("cluster.local/*", &["cluster.local/*"]),
            ("*", &["*"]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(trust.principals(pattern), *expected, "{pattern}");
        }
        assert_eq!(trust.names("cluster.local"), ["td", "old"]);
        assert_eq!(TrustDomains::new("cluster.local", &[]).names("cluster.local"), ["cluster.local"]);
    }
}
