//! kube-rbac-proxy's flags, upstream's and Open Data Hub's.
//!
//! All of them are read. What would be ignored where ignoring it is no harm (log files, client-side throttling) is
//! ignored with a warning; what would be ignored with harm is refused, with what to do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The address to serve HTTPS on
    #[arg(long, value_name = "ADDR", default_value = "")]
    pub secure_listen_address: String,
    /// [deprecated] The address to serve plaintext HTTP on
    #[arg(long, value_name = "ADDR", default_value = "")]
    pub insecure_listen_address: String,
    /// The server that allowed requests are sent to
    #[arg(long, value_name = "URL", default_value = "")]
    pub upstream: String,
    /// The server behind speaks HTTP/2 without TLS only
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub upstream_force_h2c: bool,
    #[arg(long, value_name = "FILE")]
    pub upstream_ca_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pub upstream_client_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pub upstream_client_key_file: Option<PathBuf>,
    /// Between two pieces of an answer, and before the first; 0: as long as it takes
    #[arg(long, value_name = "TIME", value_parser = crate::go_time::duration, default_value = "0s")]
    pub upstream_timeout: Duration,
    /// What callers must be allowed to do
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Patterns of paths; all others do not exist
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub allow_paths: Vec<String>,
    /// Patterns of paths that everybody may ask for
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub ignore_paths: Vec<String>,
    /// The port that serves /healthz over HTTPS, on the host of --secure-listen-address
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub proxy_endpoints_port: u16,
    #[command(flatten)]
    pub tls: TlsFlags,
    #[command(flatten)]
    pub auth: AuthFlags,
    /// How to reach the API server; without, as every pod may
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Reviews begun in a second; 0: as many as this sidecar thinks right
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub kube_api_qps: f32,
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub kube_api_burst: usize,
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub http2_max_concurrent_streams: u32,
    /// Read, and left at our own 256 KiB for each stream
    #[arg(long, value_name = "BYTES", default_value_t = 262_144)]
    pub http2_max_size: u32,
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub http2_disable: bool,
    /// For metrics, readiness and invalidation; not kube-rbac-proxy's
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    pub admin_address: SocketAddr,
    #[command(flatten)]
    pub klog: Klog,
}

#[derive(clap::Args, Debug)]
pub struct TlsFlags {
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// VersionTLS12 or VersionTLS13
    #[arg(long, value_name = "VERSION", default_value = "VersionTLS12")]
    pub tls_min_version: String,
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// [deprecated] Changes are seen within a second, whatever is said here
    #[arg(long, value_name = "TIME", value_parser = crate::go_time::duration, default_value = "1m")]
    pub tls_reload_interval: Duration,
    /// Not served: see the error
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct AuthFlags {
    /// Tell the server behind who calls
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub auth_header_fields_enabled: bool,
    #[arg(long, value_name = "NAME", default_value = "x-remote-user")]
    pub auth_header_user_field_name: String,
    #[arg(long, value_name = "NAME", default_value = "x-remote-groups")]
    pub auth_header_groups_field_name: String,
    #[arg(long, value_name = "TEXT", default_value = "|")]
    pub auth_header_groups_field_separator: String,
    /// What tokens must be made for; without, the API server itself
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub auth_token_audiences: Vec<String>,
    /// Whose ID tokens are taken, in the place of TokenReviews
    #[arg(long, value_name = "URL", default_value = "")]
    pub oidc_issuer: String,
    #[arg(long = "oidc-clientID", value_name = "ID", default_value = "")]
    pub oidc_client_id: String,
    #[arg(long, value_name = "CLAIM", default_value = "groups")]
    pub oidc_groups_claim: String,
    #[arg(long, value_name = "CLAIM", default_value = "email")]
    pub oidc_username_claim: String,
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub oidc_username_prefix: String,
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub oidc_groups_prefix: String,
    #[arg(long, value_name = "NAME", default_value = "RS256")]
    pub oidc_sign_alg: Vec<String>,
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
}

/// What klog had; all of it without effect, as in upstream.
#[derive(clap::Args, Debug)]
pub struct Klog {
    /// How much is logged; OUTRIDER_LOG says it here
    #[arg(long = "v", short = 'v', value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: i32,
    #[arg(long, value_name = "PATTERNS", default_value = "", hide = true)]
    pub vmodule: String,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub logtostderr: Option<bool>,
    #[arg(long, alias = "add_dir_header", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub add_dir_header: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub alsologtostderr: Option<bool>,
    #[arg(long, alias = "log_backtrace_at", hide = true)]
    pub log_backtrace_at: Option<String>,
    #[arg(long, alias = "log_dir", hide = true)]
    pub log_dir: Option<String>,
    #[arg(long, alias = "log_file", hide = true)]
    pub log_file: Option<String>,
    #[arg(long, alias = "log_file_max_size", hide = true)]
    pub log_file_max_size: Option<u64>,
    #[arg(long, alias = "one_output", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub one_output: Option<bool>,
    #[arg(long, alias = "skip_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_headers: Option<bool>,
    #[arg(long, alias = "skip_log_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_log_headers: Option<bool>,
    #[arg(long, hide = true)]
    pub stderrthreshold: Option<String>,
    #[arg(long, hide = true)]
    pub log_flush_frequency: Option<String>,
}

/// Every reason not to start, and what is ignored.
pub fn judge(args: &Args) -> Result<Vec<String>, Vec<String>> {
    let mut problems = Vec::new();
    let mut no = |wrong: bool, words: &str| problems.extend(wrong.then(|| words.to_owned()));
    let secure = !args.secure_listen_address.is_empty();
    let both = secure && !args.insecure_listen_address.is_empty();
    no(!secure && args.insecure_listen_address.is_empty(), "no listen address: give --secure-listen-address");
    no(both, "--insecure-listen-address beside --secure-listen-address is not served: choose one");
    no(
        !args.allow_paths.is_empty() && !args.ignore_paths.is_empty(),
        "cannot use --allow-paths and --ignore-paths together",
    );
    let secure_upstream = args.upstream.starts_with("https:");
    let upstream_files = args.upstream_ca_file.is_some() || args.upstream_client_cert_file.is_some();
    no(!secure_upstream && upstream_files, "--upstream-ca-file and --upstream-client-* are for --upstream=https://…");
    let pair = args.upstream_client_cert_file.is_some() == args.upstream_client_key_file.is_some();
    no(!pair, "--upstream-client-cert-file and --upstream-client-key-file: give both, or neither");
    no(secure_upstream && args.upstream_force_h2c, "--upstream-force-h2c is for --upstream=http://…");
    let auth = &args.auth;
    let oidc = !auth.oidc_client_id.is_empty() || auth.oidc_ca_file.is_some();
    no(oidc && auth.oidc_issuer.is_empty(), "--oidc-*: name whose tokens are taken with --oidc-issuer");
    no(
        !auth.oidc_issuer.is_empty() && auth.oidc_client_id.is_empty(),
        "--oidc-issuer needs --oidc-clientID: tokens for others would be taken here",
    );
    no(
        !auth.oidc_issuer.is_empty() && !auth.auth_token_audiences.is_empty(),
        "--auth-token-audiences are of TokenReviews, which --oidc-issuer takes the place of: drop one of them",
    );
    no(
        args.tls.client_ca_file.is_some(),
        "--client-ca-file is not served: callers with certificates are known by their SPIFFE id; see `outrider proxy`, tls",
    );
    let version = args.tls.tls_min_version.as_str();
    no(
        !matches!(version, "VersionTLS12" | "VersionTLS13"),
        "--tls-min-version: VersionTLS12 and VersionTLS13 are served",
    );
    let pair = args.tls.tls_cert_file.is_some() == args.tls.tls_private_key_file.is_some();
    no(!pair, "--tls-cert-file and --tls-private-key-file: give both, or neither");
    no(args.http2_max_concurrent_streams == 0, "--http2-max-concurrent-streams: must be at least 1");
    if problems.is_empty() { Ok(ignored(args)) } else { Err(problems) }
}

fn ignored(args: &Args) -> Vec<String> {
    let klog = &args.klog;
    let logs = klog.logtostderr.is_some() || klog.alsologtostderr.is_some() || klog.add_dir_header.is_some();
    let logs = logs || klog.log_backtrace_at.is_some() || klog.log_dir.is_some() || klog.log_file.is_some();
    let logs = logs || klog.log_file_max_size.is_some() || klog.one_output.is_some() || klog.skip_headers.is_some();
    let logs = logs || klog.skip_log_headers.is_some() || klog.stderrthreshold.is_some() || klog.verbosity != 0;
    let logs = logs || klog.log_flush_frequency.is_some() || !klog.vmodule.is_empty();
    let cases = [
        (logs, "klog's flags have no effect: logs are JSON lines on stderr, and OUTRIDER_LOG says how many"),
        (!args.insecure_listen_address.is_empty(), "--insecure-listen-address: tokens travel in plaintext"),
        (
            !args.tls.tls_cipher_suites.is_empty(),
            "--tls-cipher-suites: only suites with forward secrecy and AEAD are ever offered",
        ),
        (
            args.tls.tls_min_version == "VersionTLS13",
            "--tls-min-version=VersionTLS13: TLS 1.2 stays on, with AEAD suites only",
        ),
        (args.tls.tls_reload_interval != Duration::from_secs(60), "--tls-reload-interval: changes are seen at once"),
        (args.http2_disable, "--http2-disable: HTTP/2 stays on; its streams and resets are limited"),
        (args.http2_max_size != 262_144, "--http2-max-size: stays at 256 KiB for each stream"),
    ];
    cases.into_iter().filter(|(given, _)| *given).map(|(_, words)| words.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    pub fn args(line: &[&str]) -> Result<Args, clap::Error> {
        <Line as clap::Parser>::try_parse_from([&["rbac-proxy"], line].concat()).map(|line| line.args)
    }

    /// What KServe's Open Data Hub build puts into a predictor's pod.
    const KSERVE: &[&str] = &[
        "--secure-listen-address=:8443",
        "--proxy-endpoints-port=8643",
        "--upstream=http://localhost:8080",
        "--auth-header-fields-enabled=true",
        "--tls-cert-file=/etc/tls/private/tls.crt",
        "--tls-private-key-file=/etc/tls/private/tls.key",
        "--config-file=/etc/kube-rbac-proxy/config-file.yaml",
        "--v=4",
        "--upstream-timeout=60s",
    ];

    #[test]
    fn which_command_lines_are_understood() {
        let kserve = args(KSERVE).unwrap();
        assert!(kserve.auth.auth_header_fields_enabled);
        assert_eq!((kserve.proxy_endpoints_port, kserve.upstream_timeout), (8643, Duration::from_secs(60)));
        assert_eq!(judge(&kserve).unwrap().len(), 1, "the verbosity");
        let more =
            args(&["--allow-paths=/a,/b", "--allow-paths", "/c", "--auth-header-fields-enabled", "-v=10"]).unwrap();
        assert_eq!((more.allow_paths.len(), more.auth.auth_header_fields_enabled), (3, true));
        let old = ["--logtostderr=true", "--log_dir=/x", "--stderrthreshold=2", "--vmodule=a=1", "--skip-headers"];
        assert!(args(&old).is_ok());
        assert!(args(&["--upstreem=http://x"]).unwrap_err().to_string().contains("--upstreem"));
    }

    #[test]
    fn what_is_refused_and_with_which_words() {
        let words = |more: &[&str]| {
            let line = [&["--secure-listen-address=:8443", "--upstream=http://localhost:8080"], more].concat();
            judge(&args(&line).unwrap()).err().unwrap_or_default().join("\n")
        };
        assert_eq!(words(&[]), "");
        for (flag, expected) in [
            ("--insecure-listen-address=:8080", "choose one"),
            ("--client-ca-file=/ca", "SPIFFE"),
            ("--oidc-issuer=https://x", "--oidc-clientID"),
            ("--oidc-clientID=x", "--oidc-issuer"),
            ("--upstream-ca-file=/ca", "https://"),
            ("--upstream-client-key-file=/k", "both"),
            ("--tls-min-version=VersionTLS10", "VersionTLS12"),
            ("--tls-cert-file=/c", "both"),
        ] {
            assert!(words(&[flag]).contains(expected), "{flag}: {}", words(&[flag]));
        }
        assert!(words(&["--allow-paths=/a", "--ignore-paths=/b"]).contains("together"));
        assert!(judge(&args(&[]).unwrap()).is_err());
    }
}
