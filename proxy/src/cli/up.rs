//! `outrider up`: one command from a model file to a server, with a trust domain of its own.
//!
//! Writes the configurations that `outrider proxy` and `outrider-worker` would be given, then runs the very same
//! server. Never decides at run time what those files do not say.

use super::model::{Model, models};
use super::state::State;
use super::trust::{self, AUDIENCE, ISSUER};
use crate::config::Config;
use crate::config::quantity::Quantity;
use crate::server::{self, Running};
use crate::tls::sources::self_signed::TRUST_DOMAIN;
use serde_json::{Value, json};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Serves models from this machine: TLS, credentials, queue and worker, all set up for development.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .gguf file or the folder of a Hugging Face checkpoint, and the name callers use. May be given again
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub models: Vec<String>,
    /// Where keys, certificates and client.env are kept [default: $XDG_STATE_HOME/outrider]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// For callers; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR", value_parser = address)]
    pub listen: SocketAddr,
    /// For metrics, health and the status page
    #[arg(long, default_value = "127.0.0.1:15020", value_name = "ADDR", value_parser = address)]
    pub admin: SocketAddr,
    /// Who may connect: client certificates only, everybody, or plaintext only
    #[arg(long, value_enum, default_value_t = Tls::Permissive)]
    pub tls: Tls,
    /// How callers prove who they are
    #[arg(long, value_enum, default_value_t = Auth::Jwt)]
    pub auth: Auth,
    /// The worker is stopped after so long without work; 0: never
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = idle_timeout)]
    pub idle_timeout: MaybeNever,
    /// auto, cpu, or wgpu with part of an adapter's name: wgpu:llvmpipe
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device)]
    pub device: String,
    /// Requests the worker is given at once
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Requests that may wait for the worker
    #[arg(long, value_name = "N")]
    pub queue: Option<usize>,
}

/// Of its own name, for clap takes an `Option` to mean a flag that may be left out.
pub type MaybeNever = Option<Duration>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tls {
    Strict,
    Permissive,
    Disable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Auth {
    Jwt,
    None,
}

impl Tls {
    fn name(self) -> &'static str {
        match self {
            Tls::Strict => "strict",
            Tls::Permissive => "permissive",
            Tls::Disable => "disable",
        }
    }
}

/// `30s`; `0`, with or without a unit, is `None`: never.
fn idle_timeout(text: &str) -> Result<MaybeNever, String> {
    if text == "0" {
        return Ok(None);
    }
    Quantity::Text(text.into()).duration().map(|duration| Some(duration).filter(|duration| !duration.is_zero()))
}

/// `127.0.0.1:8443`, `[::]:8443`, or `:8443` for the loopback.
fn address(text: &str) -> Result<SocketAddr, String> {
    let of_port = text.strip_prefix(':').and_then(|port| port.parse().ok());
    match of_port {
        Some(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().map_err(|_| "write 127.0.0.1:8443, [::]:8443, or :0 for any free port".into()),
    }
}

fn device(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        None if matches!(text, "auto" | "cpu" | "wgpu") => Ok(text.into()),
        Some(("wgpu", adapter)) if !adapter.is_empty() => Ok(text.into()),
        _ => Err("write auto, cpu, wgpu, or wgpu:part of an adapter's name".into()),
    }
}

/// `outrider-worker`: beside this program, else where the shell would find it.
fn worker_program() -> Result<PathBuf, String> {
    const NAME: &str = "outrider-worker";
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |file: &PathBuf| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let found = beside.iter().cloned().chain(std::env::split_paths(&path)).map(|folder| folder.join(NAME)).find(runs);
    found.ok_or_else(|| {
        let place = beside.unwrap_or_default();
        format!("{NAME} is neither in {} nor in PATH; build it with `cargo build --release`", place.display())
    })
}

fn proxy_yaml(args: &Args, state: &State, models: &[Model], worker: &Path) -> Value {
    let methods = match args.auth {
        Auth::Jwt => {
            json!([{"jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": state.file("jwks.json")}}])
        }
        Auth::None => json!([{"anonymous": {}}]),
    };
    let mut tls = json!({"mode": args.tls.name()});
    if args.tls != Tls::Disable {
        tls = json!({
            "mode": args.tls.name(),
            "trust_domain": TRUST_DOMAIN,
            "certificate": state.file("server.pem"),
            "key": state.file("server.key"),
            "trust_bundle": state.file("ca.pem"),
        });
    }
    let idle_timeout = args.idle_timeout.map_or("never".into(), |duration| format!("{}ms", duration.as_millis()));
    let mut yaml = json!({
        "listen": args.listen,
        "admin": args.admin,
        "tls": tls,
        "auth": {"methods": methods},
        "worker": {
            "socket": state.file("worker.sock"),
            "command": [worker, Path::new("--config"), &state.file("worker.yaml"), Path::new("--die-with-parent")],
            "models": models.iter().map(|model| &model.name).collect::<Vec<_>>(),
            "idle_timeout": idle_timeout,
        },
        // Somebody is waiting at the terminal after Ctrl-C: in two seconds all is over, the worker too.
        "drain": {"timeout": "1500ms", "quiet": "0s"},
    });
    if let Some(concurrency) = args.concurrency {
        yaml["worker"]["concurrency"] = json!(concurrency);
    }
    if let Some(requests_max) = args.queue {
        yaml["queue"] = json!({"requests_max": requests_max});
    }
    yaml
}

fn worker_yaml(args: &Args, state: &State, models: &[Model]) -> Value {
    let models: Vec<Value> = models.iter().map(|model| json!({"name": model.name, "path": model.path})).collect();
    json!({"socket": state.file("worker.sock"), "models": models, "device": args.device})
}

fn write_yaml(state: &State, name: &str, value: &Value) -> Result<(), Box<dyn Error>> {
    let yaml = serde_yaml_ng::to_string(value)?;
    Ok(state
        .write(name, format!("# Written by `outrider up` at each start: changes here are lost.\n{yaml}").as_bytes())?)
}

/// An address as somebody on this machine writes it in a URL.
fn url(scheme: &str, address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

/// For a POSIX shell: within single quotes only a single quote means anything.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// What a shell sources to be a client of this server.
fn client_env(args: &Args, state: &State, running: &Running, model: &str) -> Result<String, Box<dyn Error>> {
    let scheme = if args.tls == Tls::Disable { "http" } else { "https" };
    let token = fs::read_to_string(state.file("token"))?;
    let file = |name| state.file(name).display().to_string();
    let variables = [
        ("OUTRIDER_URL", url(scheme, running.listen)),
        ("OUTRIDER_ADMIN_URL", url("http", running.admin)),
        ("OUTRIDER_CA", file("ca.pem")),
        ("OUTRIDER_CERT", file("client.pem")),
        ("OUTRIDER_KEY", file("client.key")),
        ("OUTRIDER_TOKEN", token.trim().to_owned()),
        ("OUTRIDER_MODEL", model.to_owned()),
    ];
    Ok(variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect())
}

/// Certificates end while servers run: looked at every hour, and the file source notices what is new.
fn keep_fresh(path: PathBuf, address: IpAddr) {
    let renew = move || {
        let Ok(state) = State::open(path) else { return };
        loop {
            std::thread::sleep(Duration::from_secs(3600));
            if let Err(error) = trust::ensure(&state, Some(address), trust::now_unix()) {
                tracing::error!(%error, "identities not renewed");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("renewal".into()).spawn(renew) {
        tracing::error!(%error, "certificates will not be renewed while this server runs");
    }
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    super::start_logging();
    let models = models(&args.models)?;
    let worker = worker_program()?;
    let state = State::open(State::place(args.state_dir.as_deref())?)?;
    let _lock = state.lock()?;
    // The last run's ports are not this one's: who waits for the file must not find the old one.
    let _ = fs::remove_file(state.file("client.env"));
    let address = args.listen.ip();
    trust::ensure(&state, Some(address), trust::now_unix())?;
    write_yaml(&state, "worker.yaml", &worker_yaml(&args, &state, &models))?;
    write_yaml(&state, "proxy.yaml", &proxy_yaml(&args, &state, &models, &worker))?;
    let config = Config::load(&state.file("proxy.yaml"))?;
    keep_fresh(state.path().into(), address);
    server::run(config, |running| announce(&args, &state, running, &models[0].name))?;
    Ok(())
}

/// The last step of a start: the file for clients, then the one line on stdout that says it can be used.
fn announce(args: &Args, state: &State, running: &Running, model: &str) {
    let written =
        client_env(args, state, running, model).and_then(|text| Ok(state.write("client.env", text.as_bytes())?));
    if let Err(error) = written {
        // Without the file nobody could call; no worker has been started yet, so nothing is left behind.
        eprintln!("outrider: {error}");
        std::process::exit(1);
    }
    let scheme = if args.tls == Tls::Disable { "http" } else { "https" };
    eprintln!("outrider: callers  {}", url(scheme, running.listen));
    eprintln!("outrider: status   {}", url("http", running.admin));
    eprintln!("outrider: clients  . {}", quoted(&state.file("client.env").display().to_string()));
    // Whoever started us may have stopped listening; that is no reason to stop serving.
    let _ = writeln!(std::io::stdout(), "ready");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        <Line as clap::Parser>::try_parse_from([&["up"], line].concat()).map(|line| line.args)
    }

    #[test]
    fn which_flags_are_understood() {
        let default = args(&[]).unwrap();
        assert_eq!(
            (default.tls, default.auth, default.idle_timeout),
            (Tls::Permissive, Auth::Jwt, Some(Duration::from_secs(30)))
        );
        assert_eq!((default.listen.port(), default.admin.port(), default.device.as_str()), (8443, 15020, "auto"));
        for never in ["0", "0s", "0ms"] {
            assert_eq!(args(&["--idle-timeout", never]).unwrap().idle_timeout, None);
        }
        assert_eq!(args(&["--listen", ":0"]).unwrap().listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(args(&["--device", "wgpu:llvm pipe"]).unwrap().device, "wgpu:llvm pipe");
        for bad in [
            ["--idle-timeout", "soon"],
            ["--idle-timeout", "30"],
            ["--device", "cuda"],
            ["--device", "wgpu:"],
            ["--listen", "8443"],
            ["--tls", "maybe"],
            ["--auth", "basic"],
        ] {
            assert!(args(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn are_the_written_files_configurations() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("it's a: {state}")).unwrap();
        let models = [Model { name: "smol: #1".into(), path: "/m/x y.gguf".into() }];
        for (tls, auth, idle) in [("strict", "jwt", "0"), ("permissive", "none", "5m"), ("disable", "jwt", "1500ms")] {
            let line = ["--tls", tls, "--auth", auth, "--idle-timeout", idle, "--concurrency", "4", "--queue", "9"];
            let args = args(&line).unwrap();
            let yaml = proxy_yaml(&args, &state, &models, Path::new("/bin/outrider-worker"));
            write_yaml(&state, "proxy.yaml", &yaml).unwrap();
            let config = Config::load(&state.file("proxy.yaml")).unwrap();
            let worker = config.worker().unwrap();
            assert_eq!(worker.idle_timeout, args.idle_timeout);
            assert_eq!((worker.concurrency, config.queue.requests_max), (4, 9));
            assert_eq!(worker.models, ["smol: #1"]);
            assert_eq!(worker.socket, state.file("worker.sock"));
            write_yaml(&state, "worker.yaml", &worker_yaml(&args, &state, &models)).unwrap();
            let text = fs::read_to_string(state.file("worker.yaml")).unwrap();
            let back: Value = serde_yaml_ng::from_str(&text).unwrap();
            assert_eq!(back["models"][0]["path"], "/m/x y.gguf");
        }
    }

    #[test]
    fn can_a_shell_source_the_clients_file() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path().join("it's $HOME `x`")).unwrap();
        trust::ensure(&state, None, trust::now_unix()).unwrap();
        let running =
            Running { listen: ([0, 0, 0, 0], 4000).into(), admin: "[::]:5000".parse().unwrap(), outbound: None };
        let text = client_env(&args(&[]).unwrap(), &state, &running, "smol").unwrap();
        state.write("client.env", text.as_bytes()).unwrap();
        let script = r#". "$1"; printf '%s\n' "$OUTRIDER_URL" "$OUTRIDER_ADMIN_URL" "$OUTRIDER_MODEL" "$OUTRIDER_CA"
            cat "$OUTRIDER_CERT" "$OUTRIDER_KEY" > /dev/null && test "$OUTRIDER_TOKEN" = "$(cat "$2")""#;
        let told = std::process::Command::new("sh")
            .args(["-euc", script, "sh"])
            .args([state.file("client.env"), state.file("token")])
            .output()
            .unwrap();
        assert!(told.status.success(), "{told:?}");
        let ca = state.file("ca.pem");
        let expected = format!("https://127.0.0.1:4000\nhttp://[::1]:5000\nsmol\n{}\n", ca.display());
        assert_eq!(String::from_utf8(told.stdout).unwrap(), expected);
    }
}
