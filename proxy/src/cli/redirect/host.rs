//! The machine whose rules are written: which programs it has, what they say, and what their complaints mean.
//!
//! Never decides which rules: that is the room `redirect`.

use crate::net::source_for;
use crate::redirect::Step;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where distributions put what only root may use; PATH of a container often lacks it.
const FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("neither iptables-restore nor nft is here, or not the one asked for: install iptables, or nftables")]
    NoBackend,
    #[error("{0} is absent: install the package iptables, or give --backend nft")]
    NoProgram(String),
    #[error("the kernel lets only NET_ADMIN change the rules: run as root with that capability ({0})")]
    Denied(String),
    #[error("the kernel of this node lacks NAT: load nf_nat and xt_REDIRECT there, or give the other --backend ({0})")]
    NoNat(String),
    #[error("there is no such table ({0})")]
    Absent(String),
    #[error("`{0}` failed: {1}")]
    Failed(String, String),
    #[error("::6 cannot be made an address of lo, and the application would not be reached by IPv6: {0}")]
    NoSource(io::Error),
}

/// How a caller could come in by IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    Absent,
    LoopbackOnly,
    Present,
}

pub struct Host {
    pub ipv6: Ipv6,
    folders: Vec<PathBuf>,
}

impl Host {
    pub fn look() -> Host {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from)).collect();
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        Host { ipv6: ipv6(&addresses), folders }
    }

    pub fn has(&self, program: &str) -> bool {
        self.find(program).is_some()
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())
    }

    /// What it prints.
    pub fn run(&self, step: &Step) -> Result<String, HostError> {
        let line = step.argv.join(" ");
        let program = self.find(&step.argv[0]).ok_or_else(|| HostError::NoProgram(step.argv[0].clone()))?;
        let failed = |error: io::Error| HostError::Failed(line.clone(), error.to_string());
        let mut child = Command::new(program)
            .args(&step.argv[1..])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // These programs read all before they print, and one that ends early says why itself.
        let _ = stdin.write_all(step.stdin.as_bytes());
        drop(stdin);
        let out = child.wait_with_output().map_err(failed)?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        Err(meaning(line, String::from_utf8_lossy(&out.stderr).trim()))
    }

    /// Makes the source of IPv6 connections to the application an address of `lo`, where it is not one yet.
    pub fn add_source(&self) -> Result<(), HostError> {
        match loopback_source(SIOCSIFADDR) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(HostError::NoSource),
        }
    }

    /// Undoes it; that it was not there is no failure.
    pub fn forget_source(&self) {
        let _ = loopback_source(SIOCDIFADDR);
    }
}

/// Of `/proc/net/if_inet6`: a line for each address, which ends in the name of the interface.
fn ipv6(addresses: &str) -> Ipv6 {
    let mut interfaces = addresses.lines().filter_map(|line| line.split_whitespace().last());
    match interfaces.next() {
        None => Ipv6::Absent,
        Some("lo") if interfaces.all(|name| name == "lo") => Ipv6::LoopbackOnly,
        Some(_) => Ipv6::Present,
    }
}

/// What a program's complaint means, as far as it can be told.
fn meaning(line: String, complaint: &str) -> HostError {
    let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
    let first = complaint.lines().next().unwrap_or("no word").to_owned();
    if says(&["Permission denied", "Operation not permitted", "must be root"]) {
        HostError::Denied(first)
    } else if line.starts_with("nft list") && says(&["No such file or directory"]) {
        HostError::Absent(first)
    } else if says(&["Table does not exist", "can't initialize ip", "No chain/target/match", "Protocol not supported"])
        || says(&["Failed to initialize nft", "Could not process rule: No such file or directory"])
    {
        HostError::NoNat(first)
    } else {
        HostError::Failed(line, complaint.to_owned())
    }
}

/// `linux/sockios.h`.
const SIOCSIFADDR: libc::Ioctl = 0x8916;
const SIOCDIFADDR: libc::Ioctl = 0x8936;

/// `struct in6_ifreq` of `linux/ipv6.h`.
#[repr(C)]
struct AddressRequest {
    address: [u8; 16],
    prefix_bits: u32,
    interface: libc::c_int,
}

fn loopback_source(what: libc::Ioctl) -> io::Result<()> {
    let IpAddr::V6(address) = source_for((Ipv6Addr::LOCALHOST, 0).into()) else { return Ok(()) };
    // SAFETY: the name is a C string.
    let interface = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    let request = AddressRequest { address: address.octets(), prefix_bits: 128, interface: interface as libc::c_int };
    // SAFETY: no pointers; the descriptor is checked and owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: the kernel only reads the request, which outlives the call.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw const request) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_which_addresses_could_a_caller_come_in() {
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let eth0 = "fe80000000000000a8aabbfffe000001 02 40 20 80     eth0\n";
        assert_eq!(ipv6(""), Ipv6::Absent);
        assert_eq!(ipv6(lo), Ipv6::LoopbackOnly);
        assert_eq!(ipv6(&format!("{lo}{eth0}")), Ipv6::Present);
    }

    #[test]
    fn does_a_complaint_become_something_to_do() {
        let rows = [
            (
                "iptables-save -t nat",
                "iptables-save v1.8.9: Could not fetch rule set generation id: Permission denied (you must be root)",
                "NET_ADMIN",
            ),
            ("nft -f -", "Error: Could not process rule: Operation not permitted\ntable ip outrider", "NET_ADMIN"),
            (
                "iptables-restore",
                "iptables-restore v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist (do you need to insmod?)",
                "nf_nat",
            ),
            ("nft list table ip outrider", "Error: No such file or directory; did you mean table", "no such table"),
            ("nft -f -", "Error: syntax error", "`nft -f -` failed: Error: syntax error"),
        ];
        for (line, complaint, words) in rows {
            let error = meaning(line.to_owned(), complaint).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
