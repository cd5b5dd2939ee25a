//! `outrider redirect`: sends a pod's connections through the sidecar, by the rules of the room `redirect`.
//!
//! Runs once, in an init container with NET_ADMIN, and leaves nothing running. Never goes through a shell.

mod host;

use crate::redirect::{Family, Options, Range, Step, Wanted, iptables, nft};
use host::{Host, HostError, Ipv6};
use std::error::Error;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Put the rules in place, instead of what an earlier install left.
    Install(Install),
    /// Take away all that install put there, or half of it.
    Remove(Common),
    /// Print what is there; if nothing is, what install would do.
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// What writes the rules: by default iptables where the machine has it, else nft
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Leave IPv6 alone. Where the pod has an IPv6 address, callers come in by it past the sidecar
    #[arg(long)]
    ipv4_only: bool,
}

#[derive(Debug, clap::Args)]
struct Install {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    flags: Flags,
    /// Print what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Auto,
    Iptables,
    Nft,
}

#[derive(Debug, clap::Args)]
struct Flags {
    /// The sidecar's listener for what comes in
    #[arg(long, default_value = "15006", value_name = "PORT", value_parser = port)]
    inbound_listener: u16,
    /// The sidecar's listener for what goes out
    #[arg(long, default_value = "15001", value_name = "PORT", value_parser = port)]
    outbound_listener: u16,
    /// Ports to take what comes in from: `*`, a list with commas, or nothing
    #[arg(long, default_value = "*", value_name = "PORTS", value_parser = wanted_ports)]
    inbound_ports: Wanted<u16>,
    /// Ports to leave alone, beside 15020, 15021, 15090 and the sidecar's own
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PORTS", value_parser = ports)]
    exclude_inbound_ports: List<u16>,
    /// Ports to take what goes out to, wherever it goes
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PORTS", value_parser = ports)]
    outbound_ports: List<u16>,
    /// Ports to leave alone on the way out
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PORTS", value_parser = ports)]
    exclude_outbound_ports: List<u16>,
    /// Addresses to take what goes out to: `*`, a list with commas, or nothing
    #[arg(long, default_value = "*", value_name = "RANGES", value_parser = wanted_ranges)]
    outbound_ranges: Wanted<Range>,
    /// Addresses to leave alone on the way out
    #[arg(long, default_value = "", hide_default_value = true, value_name = "RANGES", value_parser = ranges)]
    exclude_outbound_ranges: List<Range>,
    /// Take nothing that goes out
    #[arg(long, conflicts_with_all = ["outbound_ports", "outbound_ranges"])]
    no_outbound: bool,
    /// The sidecar's user
    #[arg(long, default_value = "1337", value_name = "ID")]
    uid: u32,
    /// The sidecar's group
    #[arg(long, default_value = "1337", value_name = "ID")]
    gid: u32,
}

/// One argument that holds several: clap would take a `Vec` for an argument that may come several times.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List<T>(Vec<T>);

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port")),
        Ok(port) => Ok(port),
    }
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(item).collect()
}

fn ports(text: &str) -> Result<List<u16>, String> {
    list(text, port).map(List)
}

fn range(text: &str) -> Result<Range, String> {
    text.parse().map_err(|error: crate::redirect::RangeError| error.to_string())
}

fn ranges(text: &str) -> Result<List<Range>, String> {
    list(text, range).map(List)
}

fn wanted_ports(text: &str) -> Result<Wanted<u16>, String> {
    if text.trim() == "*" { Ok(Wanted::All) } else { list(text, port).map(Wanted::Only) }
}

fn wanted_ranges(text: &str) -> Result<Wanted<Range>, String> {
    if text.trim() == "*" { Ok(Wanted::All) } else { list(text, range).map(Wanted::Only) }
}

impl Flags {
    fn options(self) -> Options {
        Options {
            inbound_listener: self.inbound_listener,
            outbound_listener: self.outbound_listener,
            inbound: self.inbound_ports,
            inbound_exclude: self.exclude_inbound_ports.0,
            outbound_ports: self.outbound_ports.0,
            outbound_ports_exclude: self.exclude_outbound_ports.0,
            outbound: if self.no_outbound { Wanted::Only(Vec::new()) } else { self.outbound_ranges },
            outbound_exclude: self.exclude_outbound_ranges.0,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let host = Host::look();
    match args.action {
        Action::Install(install) if install.dry_run => {
            print!("{}", planned(&host, &install.common, &install.flags.options())?);
        }
        Action::Install(Install { common, flags, .. }) => install(&host, &common, &flags.options())?,
        Action::Remove(common) => {
            for backend in backends(&host, &common)? {
                remove(&host, backend, common.ipv4_only)?;
            }
            host.forget_source();
        }
        Action::Show(Show { common, flags }) => {
            let there = shown(&host, &common)?;
            match there.is_empty() {
                true => print!("# nothing is installed; install does:\n{}", planned(&host, &common, &flags.options())?),
                false => print!("{there}"),
            }
        }
    }
    Ok(())
}

/// What may hold rules of ours: what was asked for, or all that this machine has.
fn backends(host: &Host, common: &Common) -> Result<Vec<Backend>, HostError> {
    let has = |backend: &Backend| host.has(if *backend == Backend::Nft { "nft" } else { "iptables-restore" });
    let asked = match common.backend {
        Backend::Auto => vec![Backend::Iptables, Backend::Nft],
        one => vec![one],
    };
    let found: Vec<Backend> = asked.into_iter().filter(has).collect();
    if found.is_empty() { Err(HostError::NoBackend) } else { Ok(found) }
}

/// Families to write rules for, and why not the other.
fn families(host: &Host, ipv4_only: bool) -> Vec<Family> {
    match host.ipv6 {
        _ if ipv4_only => vec![Family::V4],
        Ipv6::Absent => {
            eprintln!("outrider: this machine has no IPv6: no rules for it");
            vec![Family::V4]
        }
        Ipv6::LoopbackOnly | Ipv6::Present => vec![Family::V4, Family::V6],
    }
}

/// Passes over a failure of IPv6 where nobody can come in by it.
fn forgiven<T>(host: &Host, family: Family, result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(HostError::Denied(words)) => Err(HostError::Denied(words)),
        Err(error) if family == Family::V6 && host.ipv6 != Ipv6::Present => {
            eprintln!("outrider: no rules for IPv6, of which this machine has no address but loopback: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn install(host: &Host, common: &Common, options: &Options) -> Result<(), HostError> {
    let backend = backends(host, common)?[0];
    // What an earlier install did by other means would take connections before, or after, these rules.
    for other in [Backend::Iptables, Backend::Nft] {
        if other != backend && backends(host, &Common { backend: other, ..*common }).is_ok() {
            remove(host, other, common.ipv4_only)?;
        }
    }
    for family in families(host, common.ipv4_only) {
        let done = match backend {
            Backend::Nft => host.run(&nft::install(options, family)).map(drop),
            _ => host
                .run(&iptables::save(family))
                .and_then(|saved| host.run(&iptables::install(options, family, &saved)).map(drop)),
        };
        let done = forgiven(host, family, done)?;
        if family == Family::V6 && done.is_some() {
            forgiven(host, family, host.add_source())?;
        }
    }
    Ok(())
}

fn remove(host: &Host, backend: Backend, ipv4_only: bool) -> Result<(), HostError> {
    for family in families_quietly(host, ipv4_only) {
        let Some(there) = forgiven(host, family, there(host, backend, family))?.flatten() else { continue };
        let step = match backend {
            Backend::Nft => Some(nft::remove(family)),
            _ => iptables::remove(family, &there),
        };
        if let Some(step) = step {
            host.run(&step)?;
        }
    }
    Ok(())
}

fn families_quietly(host: &Host, ipv4_only: bool) -> Vec<Family> {
    let both = !ipv4_only && host.ipv6 != Ipv6::Absent;
    if both { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

/// The table as it is; `None` if there is nothing of ours, as where the kernel has no such tables at all.
fn there(host: &Host, backend: Backend, family: Family) -> Result<Option<String>, HostError> {
    let table = match backend {
        Backend::Nft => host.run(&nft::list(family)),
        _ => host.run(&iptables::save(family)),
    };
    match table {
        Ok(table) => Ok(Some(table).filter(|table| backend == Backend::Nft || !iptables::shown(table).is_empty())),
        Err(HostError::Absent(_) | HostError::NoNat(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn shown(host: &Host, common: &Common) -> Result<String, HostError> {
    let mut text = String::new();
    for backend in backends(host, common)? {
        for family in families_quietly(host, common.ipv4_only) {
            let Some(there) = forgiven(host, family, there(host, backend, family))?.flatten() else { continue };
            let (step, lines) = match backend {
                Backend::Nft => (nft::list(family), there),
                _ => (iptables::save(family), iptables::shown(&there).join("\n") + "\n"),
            };
            let _ = write!(text, "# {}\n{lines}", step.argv.join(" "));
        }
    }
    Ok(text)
}

/// What install runs where nothing is there yet.
fn planned(host: &Host, common: &Common, options: &Options) -> Result<String, HostError> {
    let backend = backends(host, common)?[0];
    let mut text = String::new();
    for family in families(host, common.ipv4_only) {
        let Step { argv, stdin } = match backend {
            Backend::Nft => nft::install(options, family),
            _ => iptables::install(options, family, ""),
        };
        let _ = write!(text, "# {}\n{stdin}", argv.join(" "));
        if family == Family::V6 {
            text.push_str("# and ::6 as an address of lo\n");
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        Line::try_parse_from([&["redirect"], arguments].concat()).map(|line| line.flags.options())
    }

    #[test]
    fn what_the_flags_say() {
        assert_eq!(options(&[]).unwrap(), Options::default());
        let given = options(&[
            "--inbound-ports=8080, 9000",
            "--exclude-inbound-ports=22",
            "--exclude-outbound-ranges=10.0.0.1,fd00::/8",
            "--no-outbound",
        ]);
        let wanted = Options {
            inbound: Wanted::Only(vec![8080, 9000]),
            inbound_exclude: vec![22],
            outbound: Wanted::Only(Vec::new()),
            outbound_exclude: vec!["10.0.0.1".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..Options::default()
        };
        assert_eq!(given.unwrap(), wanted);
        assert_eq!(options(&["--inbound-ports="]).unwrap().inbound, Wanted::Only(Vec::new()));
        for bad in ["--inbound-ports=0", "--inbound-ports=80-90", "--uid=x", "--outbound-ranges=a.example"] {
            assert!(options(&[bad]).is_err(), "{bad}");
        }
    }
}
