//! A kubeconfig file, as much of it as says how to reach one server without starting a program.
//!
//! Pure: text in, settings out. Data written into the file itself comes back as [`Inline`], for whoever owns a folder to
//! put it in. Never runs an `exec` plugin, and never skips verification.

use crate::config::Kubernetes;
use crate::config::kubernetes::TIMEOUT;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the file holds itself, to be written to files of these names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Inline {
    pub authorities: Option<Vec<u8>>,
    pub certificate: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub token: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default, rename = "current-context")]
    current: String,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    cluster: Option<serde_yaml_ng::Value>,
    #[serde(default)]
    context: Option<serde_yaml_ng::Value>,
    #[serde(default)]
    user: Option<serde_yaml_ng::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_yaml_ng::Value>,
    auth_provider: Option<serde_yaml_ng::Value>,
    username: Option<String>,
}

/// `base` is the file's folder, to which paths in it are relative; `folder` is where [`Inline`] parts will be.
pub fn parse(text: &str, base: &Path, folder: &Path) -> Result<(Kubernetes, Inline), String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| format!("is no kubeconfig: {error}"))?;
    let context: Context = pick(&file.contexts, &file.current, "context")?;
    let cluster: Cluster = pick(&file.clusters, &context.cluster, "cluster")?;
    let user: User = match context.user.as_str() {
        "" => User::default(),
        name => pick(&file.users, name, "user")?,
    };
    if cluster.insecure_skip_tls_verify {
        return Err("asks not to verify the server; name its authority instead".into());
    }
    if user.exec.is_some() || user.auth_provider.is_some() || user.username.is_some() {
        return Err("has a user that is known by a program or a password; use a token or a certificate".into());
    }
    let inline = Inline {
        authorities: decoded("certificate-authority-data", cluster.certificate_authority_data)?,
        certificate: decoded("client-certificate-data", user.client_certificate_data)?,
        key: decoded("client-key-data", user.client_key_data)?,
        token: user.token.filter(|token| !token.is_empty()).map(String::into_bytes),
    };
    // As client-go has it, data comes before a file and a token's file before a token, for the file may be renewed.
    let place = |data: bool, name: &str, file: Option<PathBuf>| match data {
        true => Some(folder.join(name)),
        false => file.map(|path| base.join(path)),
    };
    let certificate = place(inline.certificate.is_some(), "client.crt", user.client_certificate);
    let key = place(inline.key.is_some(), "client.key", user.client_key);
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("has a client certificate without its key, or the other way round".into()),
    };
    let token = inline.token.is_some() && user.token_file.is_none();
    let kubernetes = Kubernetes {
        server: cluster.server,
        authorities: place(inline.authorities.is_some(), "ca.crt", cluster.certificate_authority),
        token_file: place(token, "token", user.token_file),
        identity,
        timeout: TIMEOUT,
    };
    Ok((kubernetes, inline))
}

fn decoded(name: &str, data: Option<String>) -> Result<Option<Vec<u8>>, String> {
    data.map(|data| STANDARD.decode(data.trim()).map_err(|_| format!("has a {name} that is no base64"))).transpose()
}

fn pick<T: serde::de::DeserializeOwned>(all: &[Named], name: &str, kind: &str) -> Result<T, String> {
    let found = all.iter().find(|one| one.name == name);
    let found = found.ok_or_else(|| format!("has no {kind} named `{name}`"))?;
    let value = match kind {
        "cluster" => &found.cluster,
        "context" => &found.context,
        _ => &found.user,
    };
    // Without the words of the parser, which might repeat a token.
    let bad = |_| format!("has a {kind} named `{name}` that is not as it should be");
    serde_yaml_ng::from_value(value.clone().unwrap_or_default()).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cluster: &str, user: &str) -> Result<(Kubernetes, Inline), String> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {cluster}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        parse(&text, Path::new("/home/ada"), Path::new("/run/o"))
    }

    #[test]
    fn which_kubeconfigs_are_understood() {
        let (plain, inline) =
            config("{server: 'https://k:6443', certificate-authority: ca.pem}", "{tokenFile: /run/token}").unwrap();
        assert!(inline == Inline::default());
        assert_eq!(plain.server, "https://k:6443");
        assert_eq!(plain.authorities, Some("/home/ada/ca.pem".into()));
        assert_eq!(plain.token_file, Some("/run/token".into()));
        let (written, inline) = config(
            "{server: 'https://k', certificate-authority-data: YWJj}",
            "{client-certificate-data: YQ==, client-key-data: Yg==, token: secret}",
        )
        .unwrap();
        assert_eq!(inline.authorities.as_deref(), Some(&b"abc"[..]));
        assert_eq!(written.identity, Some(("/run/o/client.crt".into(), "/run/o/client.key".into())));
        assert_eq!(written.token_file, Some("/run/o/token".into()));
        for (cluster, user) in [
            ("{}", "{}"),
            ("{server: 'https://k', insecure-skip-tls-verify: true}", "{}"),
            ("{server: 'https://k'}", "{exec: {command: aws}}"),
            ("{server: 'https://k'}", "{username: ada, password: secret}"),
            ("{server: 'https://k'}", "{client-certificate: a}"),
            ("{server: 'https://k'}", "{client-certificate-data: '*', client-key: a}"),
        ] {
            let told = config(cluster, user).err().unwrap();
            assert!(!told.contains("secret"), "{told}");
        }
        assert!(parse("", Path::new(""), Path::new("")).is_err());
        assert!(parse("a: [", Path::new(""), Path::new("")).is_err());
    }
}
