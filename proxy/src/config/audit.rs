//! The `audit` section: where a line for each decision about a caller goes. Opens nothing.

use super::raw::Problems;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audit {
    Stderr,
    /// Appended to.
    File(PathBuf),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    to: String,
    path: Option<PathBuf>,
}

impl RawAudit {
    pub(super) fn validate(self, base: &Path, p: &mut Problems) -> Audit {
        match (self.to.as_str(), self.path) {
            ("stderr", None) => return Audit::Stderr,
            ("file", Some(path)) => return Audit::File(base.join(path)),
            ("stderr", Some(_)) => p.add("audit.path", "is for `to: file`"),
            ("file", None) => p.add("audit.path", "is needed: the file that lines are appended to"),
            (other, _) => p.add("audit.to", format!("`{other}` is none of stderr, file")),
        }
        Audit::Stderr
    }
}

impl Audit {
    pub(super) fn dump(&self) -> Value {
        match self {
            Audit::Stderr => json!({"to": "stderr"}),
            Audit::File(path) => json!({"to": "file", "path": path}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_do_audit_lines_go() {
        let of = |yaml: &str| {
            let mut problems = Problems::default();
            let raw: RawAudit = serde_yaml_ng::from_str(yaml).unwrap();
            (raw.validate(Path::new("/etc/o"), &mut problems), problems.words())
        };
        assert_eq!(of("{to: stderr}"), (Audit::Stderr, String::new()));
        assert_eq!(of("{to: file, path: audit.jsonl}"), (Audit::File("/etc/o/audit.jsonl".into()), String::new()));
        for bad in ["{to: file}", "{to: stderr, path: a}", "{to: syslog}"] {
            assert!(!of(bad).1.is_empty(), "{bad}");
        }
    }
}
