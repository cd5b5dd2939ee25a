//! The rules as `iptables-restore --noflush` reads them: each change of a table is one transaction, made for what the
//! table holds. So installing twice is installing once, and removing takes away half an installation too.

use super::{CHAINS, Chain, Family, Match, Options, Step, Verdict, rules};
use std::fmt::Write;

/// All of our chains begin so, and nobody else's.
const PREFIX: &str = "OUTRIDER_";

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Inbound => "OUTRIDER_INBOUND",
        Chain::InRedirect => "OUTRIDER_IN_REDIRECT",
        Chain::Output => "OUTRIDER_OUTPUT",
        Chain::Redirect => "OUTRIDER_REDIRECT",
    }
}

/// `iptables-save -t nat`: its output is what the other functions take as `saved`.
pub fn save(family: Family) -> Step {
    let program = if family == Family::V4 { "iptables-save" } else { "ip6tables-save" };
    Step { argv: [program, "-t", "nat"].map(str::to_owned).to_vec(), stdin: String::new() }
}

fn restore(family: Family, stdin: String) -> Step {
    let program = if family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
    // Seconds, for whoever else changes the tables just now.
    Step { argv: [program, "--noflush", "--wait=10"].map(str::to_owned).to_vec(), stdin }
}

pub fn install(options: &Options, family: Family, saved: &str) -> Step {
    let mut text = String::from("*nat\n");
    // Declaring a chain empties it if it is there.
    for chain in CHAINS {
        let _ = writeln!(text, ":{} - [0:0]", name(*chain));
    }
    for jump in jumps(saved) {
        let _ = writeln!(text, "-D {jump}");
    }
    for rule in rules(options, family) {
        let _ = write!(text, "-A {}", name(rule.chain));
        // Both need to be told of which protocol, although only TCP gets here.
        let ports = rule.matches.iter().any(|wanted| matches!(wanted, Match::ToPort(_)));
        if ports || matches!(rule.verdict, Verdict::RedirectTo(_)) {
            text.push_str(" -p tcp");
        }
        for wanted in rule.matches {
            text.push_str(&matching(wanted));
        }
        let _ = match rule.verdict {
            Verdict::Return => writeln!(text, " -j RETURN"),
            Verdict::Jump(chain) => writeln!(text, " -j {}", name(chain)),
            Verdict::RedirectTo(port) => writeln!(text, " -j REDIRECT --to-ports {port}"),
        };
    }
    let _ = writeln!(text, "-A PREROUTING -p tcp -j {}", name(Chain::Inbound));
    let _ = writeln!(text, "-A OUTPUT -p tcp -j {}", name(Chain::Output));
    text.push_str("COMMIT\n");
    restore(family, text)
}

fn matching(wanted: Match) -> String {
    match wanted {
        Match::ToPort(port) => format!(" --dport {port}"),
        Match::OverLoopback => " -o lo".to_owned(),
        Match::From(range) => format!(" -s {range}"),
        Match::To(range) => format!(" -d {range}"),
        Match::NotTo(range) => format!(" ! -d {range}"),
        Match::Uid(id) => format!(" -m owner --uid-owner {id}"),
        Match::NotUid(id) => format!(" -m owner ! --uid-owner {id}"),
        Match::Gid(id) => format!(" -m owner --gid-owner {id}"),
        Match::NotGid(id) => format!(" -m owner ! --gid-owner {id}"),
    }
}

/// `None` when nothing of ours is there.
pub fn remove(family: Family, saved: &str) -> Option<Step> {
    let chains: Vec<&str> = chains(saved).collect();
    if chains.is_empty() {
        return None;
    }
    let mut text = String::from("*nat\n");
    for jump in jumps(saved) {
        let _ = writeln!(text, "-D {jump}");
    }
    // All are emptied before the first goes: they point at each other.
    for command in ["-F", "-X"] {
        for chain in &chains {
            let _ = writeln!(text, "{command} {chain}");
        }
    }
    text.push_str("COMMIT\n");
    Some(restore(family, text))
}

/// Our lines of the table.
pub fn shown(saved: &str) -> Vec<&str> {
    saved.lines().filter(|line| line.split(' ').any(|word| word.trim_start_matches(':').starts_with(PREFIX))).collect()
}

fn chains(saved: &str) -> impl Iterator<Item = &str> {
    let declared = saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
    declared.filter(|chain| chain.starts_with(PREFIX))
}

/// Rules in other chains that lead into ours, as `-D` takes them.
fn jumps(saved: &str) -> impl Iterator<Item = &str> {
    let rules = saved.lines().filter_map(|line| line.strip_prefix("-A "));
    rules.filter(|rule| !rule.starts_with(PREFIX) && rule.contains(&format!(" -j {PREFIX}")))
}
