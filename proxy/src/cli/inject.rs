//! `outrider inject -f FILE`: manifests in, the same manifests with the sidecar in their pods out, on stdout.
//!
//! Reads files and writes stdout; what happens between is [`crate::kube`], which a webhook calls too. Never talks to an
//! API server.

use crate::kube::{self, Behind, Identity, Options, Redirect, Resources, Tls};
use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Puts the sidecar into every pod of the manifests; what has no pod stays as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A manifest, or `-` for stdin. May be given again
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Take out what was put in
    #[arg(long)]
    uninject: bool,
    /// The sidecar's image
    #[arg(long, default_value = "outrider:0.1.0")]
    image: String,
    /// As the API's imagePullPolicy
    #[arg(long, value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: Option<String>,
    /// `native`: an init container that goes on (Kubernetes 1.29); `classic`: a container among others
    #[arg(long, default_value = "native", value_parser = ["native", "classic"])]
    sidecar: String,
    /// Namespace of manifests that name none
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Leave the probes of the pod's containers as they are
    #[arg(long)]
    keep_probes: bool,
    /// Containers of the app end only when the sidecar's callers are gone (a preStop hook on its admin port)
    #[arg(long)]
    hold_app: bool,
    /// Part of a sidecar's configuration, merged over what follows from the other flags
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A ConfigMap of policy files
    #[arg(long, value_name = "CONFIGMAP")]
    policies: Option<String>,
    /// Address of the listeners; `[::]` where pods have IPv6
    #[arg(long, default_value = "0.0.0.0")]
    listen_host: String,
    #[command(flatten)]
    behind: BehindArgs,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    redirect: RedirectArgs,
    #[command(flatten)]
    resources: ResourceArgs,
}

#[derive(Debug, clap::Args)]
struct BehindArgs {
    /// Our worker is in the pod, and has these models
    #[arg(long, value_delimiter = ',', value_name = "NAME,…", conflicts_with = "forward")]
    models: Vec<String>,
    /// Which container the worker is; the first one unless told
    #[arg(long, value_name = "NAME", conflicts_with = "forward")]
    worker_container: Option<String>,
    /// A foreign server is in the pod: 127.0.0.1:8080, unix:/run/app.sock, or (with --redirect) original
    #[arg(long, value_name = "ADDRESS")]
    forward: Option<String>,
}

#[derive(Debug, clap::Args)]
struct MeshArgs {
    /// Where the certificate comes from: none, istio, spire, secret=NAME, self-signed
    #[arg(long, default_value = "none", value_parser = identity)]
    identity: Identity,
    /// strict, permissive or disable; permissive with an identity and disable without, unless told
    #[arg(long, value_parser = tls)]
    tls: Option<Tls>,
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
struct RedirectArgs {
    /// Send connections to the pod through the sidecar by the pod's own network rules (needs NET_ADMIN once)
    #[arg(long)]
    redirect: bool,
    /// Also those that leave the pod
    #[arg(long, requires = "redirect")]
    redirect_outbound: bool,
    /// Ports that go to the app directly
    #[arg(long, value_name = "PORT,…", requires = "redirect", default_value = "", hide_default_value = true)]
    exclude_inbound_ports: String,
    /// Ports out that are left alone
    #[arg(long, value_name = "PORT,…", requires = "redirect_outbound", default_value = "", hide_default_value = true)]
    exclude_outbound_ports: String,
    /// Destinations that are left alone
    #[arg(long, value_name = "CIDR,…", requires = "redirect_outbound", default_value = "", hide_default_value = true)]
    exclude_outbound_ranges: String,
}

#[derive(Debug, clap::Args)]
struct ResourceArgs {
    /// The sidecar's CPU request
    #[arg(long, value_parser = kube::quantity, default_value = "50m")]
    cpu: String,
    /// The sidecar's memory request
    #[arg(long, value_parser = kube::quantity, default_value = "32Mi")]
    memory: String,
    /// The sidecar's CPU limit; none unless told
    #[arg(long, value_parser = kube::quantity)]
    cpu_limit: Option<String>,
    /// The sidecar's memory limit
    #[arg(long, value_parser = kube::quantity, default_value = "256Mi")]
    memory_limit: String,
}

fn identity(text: &str) -> Result<Identity, String> {
    match text {
        "none" => Ok(Identity::None),
        "istio" => Ok(Identity::Istio),
        "spire" => Ok(Identity::Spire),
        "self-signed" => Ok(Identity::SelfSigned),
        _ => match text.strip_prefix("secret=").filter(|name| !name.is_empty()) {
            Some(name) => Ok(Identity::Secret(name.into())),
            None => Err("one of none, istio, spire, secret=NAME, self-signed".into()),
        },
    }
}

fn tls(text: &str) -> Result<Tls, String> {
    let known = [Tls::Strict, Tls::Permissive, Tls::Disable];
    known.into_iter().find(|tls| tls.name() == text).ok_or_else(|| "one of strict, permissive, disable".into())
}

impl Args {
    fn options(&self) -> Result<Options, Box<dyn Error>> {
        let base = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Some(serde_yaml_ng::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
            }
            None => None,
        };
        let behind = match (&self.behind.forward, self.behind.models.is_empty()) {
            (Some(to), _) => Some(Behind::Forward(to.clone())),
            (None, false) => {
                let container = self.behind.worker_container.clone();
                Some(Behind::Worker { models: self.behind.models.clone(), container })
            }
            (None, true) => None,
        };
        Ok(Options {
            image: self.image.clone(),
            pull_policy: self.pull_policy.clone(),
            native: Some(self.sidecar == "native"),
            behind,
            identity: self.mesh.identity.clone(),
            tls: self.mesh.tls,
            trust_domain: self.mesh.trust_domain.clone(),
            redirect: self.redirect.rules()?,
            resources: self.resources.resources(),
            rewrite_probes: !self.keep_probes,
            hold_app: self.hold_app,
            base,
            namespace: self.namespace.clone(),
            policies: self.policies.clone(),
            listen_host: self.listen_host.clone(),
            log: None,
        })
    }
}

impl RedirectArgs {
    fn rules(&self) -> Result<Option<Redirect>, String> {
        let rules = Redirect {
            outbound: self.redirect_outbound,
            exclude_inbound_ports: kube::port_list(&self.exclude_inbound_ports)?,
            exclude_outbound_ports: kube::port_list(&self.exclude_outbound_ports)?,
            exclude_outbound_ranges: kube::range_list(&self.exclude_outbound_ranges)?,
            ..Redirect::default()
        };
        Ok(self.redirect.then_some(rules))
    }
}

impl ResourceArgs {
    fn resources(&self) -> Resources {
        Resources {
            cpu: self.cpu.clone(),
            memory: self.memory.clone(),
            cpu_limit: self.cpu_limit.clone(),
            memory_limit: Some(self.memory_limit.clone()),
        }
    }
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let options = args.options()?;
    let (mut out, mut problems) = (String::new(), Vec::new());
    for file in &args.files {
        let text = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let edited = if args.uninject { kube::uninject(&text) } else { kube::inject(&text, &options) };
        match edited {
            Ok(edited) => join(&mut out, &edited),
            Err(found) => {
                for problem in found {
                    // What is wrong with the flags is wrong with every file, and told once.
                    let flag = problem.place.starts_with("--");
                    let words = if flag { problem.to_string() } else { format!("{}: {problem}", file.display()) };
                    if !problems.contains(&words) {
                        problems.push(words);
                    }
                }
            }
        }
    }
    // All or nothing: half of a deployment piped into `kubectl apply` helps nobody.
    if !problems.is_empty() {
        return Err(format!("nothing was injected:\n  {}", problems.join("\n  ")).into());
    }
    Ok(std::io::stdout().write_all(out.as_bytes())?)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

/// Streams of documents one after the other are one stream.
fn join(out: &mut String, next: &str) {
    if !out.is_empty() {
        if !out.ends_with('\n') {
            out.push('\n');
        }
        if !next.starts_with("---") {
            out.push_str("---\n");
        }
    }
    out.push_str(next);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Options, String> {
        let words = ["inject", "-f", "-"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.args.options().map_err(|error| error.to_string())
    }

    #[test]
    fn what_do_the_flags_mean() {
        let said = parse("--models a,b --identity secret=x").unwrap();
        assert_eq!(said.behind, Some(Behind::Worker { models: vec!["a".into(), "b".into()], container: None }));
        assert_eq!(
            said,
            Options {
                behind: said.behind.clone(),
                identity: Identity::Secret("x".into()),
                native: Some(true),
                ..Options::default()
            }
        );
        let said = parse("--redirect --redirect-outbound --exclude-outbound-ports 1,2").unwrap();
        assert_eq!(said.redirect.unwrap().exclude_outbound_ports, ["1", "2"]);
        for bad in
            ["--identity secret=", "--tls on", "--models a --forward b", "--exclude-inbound-ports 1", "--cpu lots"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn are_several_files_one_stream() {
        let mut out = String::new();
        for text in ["a: 1", "---\nb: 2\n", "c: 3\n"] {
            join(&mut out, text);
        }
        assert_eq!(out, "a: 1\n---\nb: 2\n---\nc: 3\n");
    }
}
