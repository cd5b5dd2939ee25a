//! The rules as `nft -f -` reads them, in a table of our own for each family: what is not in it is not ours. The file is
//! one transaction that makes the table anew, so installing twice is installing once.

use super::{CHAINS, Chain, Family, Match, Options, Step, Verdict, rules};
use std::fmt::Write;

const TABLE: &str = "outrider";

fn name(chain: Chain) -> &'static str {
    match chain {
        Chain::Inbound => "inbound",
        Chain::InRedirect => "in_redirect",
        Chain::Output => "outbound",
        Chain::Redirect => "redirect_out",
    }
}

fn keyword(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

fn nft(words: &[&str], stdin: String) -> Step {
    Step { argv: std::iter::once(&"nft").chain(words).map(|word| (*word).to_owned()).collect(), stdin }
}

/// Lists our table; fails if there is none.
pub fn list(family: Family) -> Step {
    nft(&["list", "table", keyword(family), TABLE], String::new())
}

/// Also where there is none: naming a table makes it.
fn cleared(family: Family) -> String {
    let family = keyword(family);
    format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n")
}

pub fn remove(family: Family) -> Step {
    nft(&["-f", "-"], cleared(family))
}

pub fn install(options: &Options, family: Family) -> Step {
    let rules = rules(options, family);
    let mut text = cleared(family);
    let _ = writeln!(text, "table {} {TABLE} {{", keyword(family));
    // A chain must be known before a rule jumps there.
    for chain in CHAINS {
        let _ = writeln!(text, "    chain {} {{\n    }}", name(*chain));
    }
    for chain in CHAINS {
        let _ = writeln!(text, "    chain {} {{", name(*chain));
        for rule in rules.iter().filter(|rule| rule.chain == *chain) {
            let matches: String = rule.matches.iter().map(|wanted| matching(*wanted, family)).collect();
            let _ = match rule.verdict {
                Verdict::Return => writeln!(text, "        {matches}return"),
                Verdict::Jump(chain) => writeln!(text, "        {matches}jump {}", name(chain)),
                Verdict::RedirectTo(port) => writeln!(text, "        {matches}meta l4proto tcp redirect to :{port}"),
            };
        }
        text.push_str("    }\n");
    }
    for (hook, chain) in [("prerouting", Chain::Inbound), ("output", Chain::Output)] {
        // -100 is where destination addresses are translated.
        let _ = writeln!(text, "    chain {hook} {{\n        type nat hook {hook} priority -100; policy accept;");
        let _ = writeln!(text, "        meta l4proto tcp jump {}\n    }}", name(chain));
    }
    text.push_str("}\n");
    nft(&["-f", "-"], text)
}

fn matching(wanted: Match, family: Family) -> String {
    let family = keyword(family);
    match wanted {
        Match::ToPort(port) => format!("tcp dport {port} "),
        Match::OverLoopback => "oifname \"lo\" ".to_owned(),
        Match::From(range) => format!("{family} saddr {range} "),
        Match::To(range) => format!("{family} daddr {range} "),
        Match::NotTo(range) => format!("{family} daddr != {range} "),
        Match::Uid(id) => format!("meta skuid {id} "),
        Match::NotUid(id) => format!("meta skuid != {id} "),
        Match::Gid(id) => format!("meta skgid {id} "),
        Match::NotGid(id) => format!("meta skgid != {id} "),
    }
}
