//! Interception: the rules that send a pod's connections through the sidecar, as data, and as what iptables and nft read.
//!
//! The rules are Istio's, chain by chain, so that a pod behaves as it did with Istio's sidecar; DNS stays as it is. Pure:
//! never runs a command, and never asks what machine this is.

pub mod iptables;
pub mod nft;
mod range;

#[cfg(test)]
mod tests;

pub use range::{Range, RangeError};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports that are never taken: metrics and probes that kubelet and Prometheus ask for in the clear.
const NEVER_INBOUND: &[u16] = &[15020, 15021, 15090];

/// What is to be intercepted, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The sidecar's listener for what comes in.
    pub inbound_listener: u16,
    /// The sidecar's listener for what goes out.
    pub outbound_listener: u16,
    pub inbound: Wanted<u16>,
    pub inbound_exclude: Vec<u16>,
    /// Taken wherever they go, before `outbound` is asked.
    pub outbound_ports: Vec<u16>,
    pub outbound_ports_exclude: Vec<u16>,
    pub outbound: Wanted<Range>,
    pub outbound_exclude: Vec<Range>,
    /// The sidecar's own user and group: what they send is never taken, or it would come back without end.
    pub uid: u32,
    pub gid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            inbound_listener: 15006,
            outbound_listener: 15001,
            inbound: Wanted::All,
            inbound_exclude: Vec::new(),
            outbound_ports: Vec::new(),
            outbound_ports_exclude: Vec::new(),
            outbound: Wanted::All,
            outbound_exclude: Vec::new(),
            uid: 1337,
            gid: 1337,
        }
    }
}

/// All, or only these; of none, nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted<T> {
    All,
    Only(Vec<T>),
}

impl<T> Wanted<T> {
    fn is_none(&self) -> bool {
        matches!(self, Wanted::Only(these) if these.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Where the application is at home.
    fn loopback(self) -> Range {
        Range::host(match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        })
    }

    /// Where the sidecar's connections to the application come from, as in `net::source_for`.
    fn source(self) -> Range {
        Range::host(match self {
            Family::V4 => Ipv4Addr::new(127, 0, 0, 6).into(),
            Family::V6 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        })
    }
}

/// Something to run, without a shell between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub argv: Vec<String>,
    pub stdin: String,
}

/// Our chains in table `nat`; the first two hang below the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Below PREROUTING: what comes in.
    Inbound,
    /// Below OUTPUT: what goes out.
    Output,
    InRedirect,
    Redirect,
}

pub const CHAINS: &[Chain] = &[Chain::Inbound, Chain::InRedirect, Chain::Output, Chain::Redirect];

/// Of a TCP packet that opens a connection. All matches of a rule must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    ToPort(u16),
    OverLoopback,
    From(Range),
    To(Range),
    NotTo(Range),
    Uid(u32),
    NotUid(u32),
    Gid(u32),
    NotGid(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not taken: goes where it was going.
    Return,
    Jump(Chain),
    RedirectTo(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub chain: Chain,
    pub matches: Vec<Match>,
    pub verdict: Verdict,
}

fn rule(chain: Chain, matches: &[Match], verdict: Verdict) -> Rule {
    Rule { chain, matches: matches.to_vec(), verdict }
}

/// The rules of one family, in order.
pub fn rules(options: &Options, family: Family) -> Vec<Rule> {
    let mut rules = vec![
        rule(Chain::InRedirect, &[], Verdict::RedirectTo(options.inbound_listener)),
        rule(Chain::Redirect, &[], Verdict::RedirectTo(options.outbound_listener)),
    ];
    rules.extend(inbound(options));
    rules.extend(output(options, family));
    rules
}

fn inbound(options: &Options) -> Vec<Rule> {
    if options.inbound.is_none() {
        return Vec::new();
    }
    let mut passed = NEVER_INBOUND.to_vec();
    passed.extend([options.inbound_listener, options.outbound_listener]);
    passed.extend(&options.inbound_exclude);
    passed.sort_unstable();
    passed.dedup();
    let mut rules: Vec<Rule> =
        passed.into_iter().map(|port| rule(Chain::Inbound, &[Match::ToPort(port)], Verdict::Return)).collect();
    match &options.inbound {
        Wanted::All => rules.push(rule(Chain::Inbound, &[], Verdict::Jump(Chain::InRedirect))),
        Wanted::Only(ports) => {
            let taken = |port: &u16| rule(Chain::Inbound, &[Match::ToPort(*port)], Verdict::Jump(Chain::InRedirect));
            rules.extend(ports.iter().map(taken));
        }
    }
    rules
}

fn output(options: &Options, family: Family) -> Vec<Rule> {
    let pass = |matches: &[Match]| rule(Chain::Output, matches, Verdict::Return);
    let take = |matches: &[Match]| rule(Chain::Output, matches, Verdict::Jump(Chain::Redirect));
    let mut rules: Vec<Rule> =
        options.outbound_ports_exclude.iter().map(|port| pass(&[Match::ToPort(*port)])).collect();
    // The sidecar's connections to the application; before the guards, which would send them back to the sidecar.
    rules.push(pass(&[Match::OverLoopback, Match::From(family.source())]));
    let guards =
        [(Match::Uid(options.uid), Match::NotUid(options.uid)), (Match::Gid(options.gid), Match::NotGid(options.gid))];
    for (ours, others) in guards {
        // The application called a service that is this very pod: what the sidecar sends out has to come in again as
        // from any other caller, to be asked who it is.
        if !options.inbound.is_none() {
            let matches = [Match::OverLoopback, Match::NotTo(family.loopback()), ours];
            rules.push(rule(Chain::Output, &matches, Verdict::Jump(Chain::InRedirect)));
        }
        // The application calls itself by the pod's address.
        rules.push(pass(&[Match::OverLoopback, others]));
        rules.push(pass(&[ours]));
    }
    rules.push(pass(&[Match::To(family.loopback())]));
    let here = |range: &&Range| Family::of(range.address()) == family;
    rules.extend(options.outbound_exclude.iter().filter(here).map(|range| pass(&[Match::To(*range)])));
    rules.extend(options.outbound_ports.iter().map(|port| take(&[Match::ToPort(*port)])));
    match &options.outbound {
        Wanted::All => rules.push(take(&[])),
        Wanted::Only(ranges) => rules.extend(ranges.iter().filter(here).map(|range| take(&[Match::To(*range)]))),
    }
    rules
}
