//! The file's shape, its defaults, and what makes a file contradict itself.
//!
//! An unknown key is refused at once: a misspelt limit that silently did nothing would be worse than no limit.

use super::activator::{Activator, RawActivator};
use super::audit::RawAudit;
use super::auth::RawAuth;
use super::cold::RawCold;
use super::device::RawDevice;
use super::inbound::{self, RawForward, RawInterception, RawPolicy};
use super::kubernetes::RawKubernetes;
use super::leaving::{RawDrain, RawUpgrade};
use super::outbound::{Origination, RawOutbound};
use super::probes::RawProbes;
use super::quantity::Quantity;
use super::queue::RawQueue;
use super::rate_limits::RawRateLimits;
use super::readiness::{RawKnative, RawReadiness};
use super::served::RawServed;
use super::timeouts::RawTimeouts;
use super::tls::RawTls;
use super::worker::RawWorker;
use super::{Behind, Config, Cost, Destination, Forward, Limits, Method};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    listen: Option<String>,
    admin: Option<String>,
    threads: Option<usize>,
    #[serde(default)]
    interception: RawInterception,
    tls: RawTls,
    auth: RawAuth,
    #[serde(default)]
    kubernetes: RawKubernetes,
    policy: Option<RawPolicy>,
    xfcc: Option<String>,
    worker: Option<RawWorker>,
    forward: Option<RawForward>,
    activator: Option<RawActivator>,
    device: Option<RawDevice>,
    #[serde(default)]
    queue: RawQueue,
    #[serde(default)]
    timeouts: RawTimeouts,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    cold: RawCold,
    #[serde(default)]
    rate_limits: RawRateLimits,
    #[serde(default)]
    drain: RawDrain,
    access_log: Option<bool>,
    audit: Option<RawAudit>,
    #[serde(default)]
    probes: RawProbes,
    healthz: Option<String>,
    outbound: Option<RawOutbound>,
    ext_authz_server: Option<RawServed>,
    readiness: Option<RawReadiness>,
    knative: Option<RawKnative>,
    upgrade: Option<RawUpgrade>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    body_bytes_max: Option<Quantity>,
    body_timeout: Option<Quantity>,
    header_timeout: Option<Quantity>,
    write_timeout: Option<Quantity>,
    handshake_timeout: Option<Quantity>,
    handshakes_max: Option<usize>,
    connections_max: Option<usize>,
    streams_max: Option<u32>,
    idle_timeout: Option<Quantity>,
    connection_age_max: Option<Quantity>,
    connection_age_grace: Option<Quantity>,
}

/// What is wrong, each with its path in the file.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    pub(super) fn add(&mut self, path: &str, words: impl std::fmt::Display) {
        self.0.push(format!("{path}: {words}"));
    }

    #[cfg(test)]
    pub(super) fn words(&self) -> String {
        self.0.join("\n")
    }

    pub(super) fn duration(&mut self, path: &str, given: &Option<Quantity>, default: Duration) -> Duration {
        let Some(given) = given else { return default };
        match given.duration() {
            Ok(duration) if duration.is_zero() => self.add(path, "must be more than nothing"),
            Ok(duration) => return duration,
            Err(words) => self.add(path, words),
        }
        default
    }

    /// A socket's path that the system can take.
    pub(super) fn socket(&mut self, path: &str, socket: PathBuf) -> PathBuf {
        // sun_path is 108 bytes with its final NUL (unix(7)).
        if socket.as_os_str().len() > 107 {
            self.add(path, format!("{} is longer than the 107 bytes a socket's path may have", socket.display()));
        }
        socket
    }

    /// A duration that may be nothing at all.
    pub(super) fn duration_or_none(&mut self, path: &str, given: &Option<Quantity>, default: Duration) -> Duration {
        match given.as_ref().map(Quantity::duration) {
            None => default,
            Some(Ok(duration)) => duration,
            Some(Err(words)) => {
                self.add(path, words);
                default
            }
        }
    }

    pub(super) fn optional(
        &mut self,
        path: &str,
        given: &Option<Quantity>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let Some(given) = given else { return default };
        match given.duration_or_never() {
            Ok(Some(duration)) if duration.is_zero() => self.add(path, "must be more than nothing, or `never`"),
            Ok(duration) => return duration,
            Err(words) => self.add(path, words),
        }
        default
    }

    pub(super) fn size(&mut self, path: &str, given: &Option<Quantity>, default: usize) -> usize {
        let Some(given) = given else { return default };
        match given.size() {
            Ok(0) => self.add(path, "must be more than nothing"),
            Ok(bytes) => return bytes,
            Err(words) => self.add(path, words),
        }
        default
    }

    pub(super) fn count(&mut self, path: &str, given: Option<usize>, default: usize) -> usize {
        if given == Some(0) {
            self.add(path, "must be at least 1");
        }
        given.unwrap_or(default)
    }

    pub(super) fn address(&mut self, path: &str, given: &Option<String>, default: &str) -> SocketAddr {
        let text = given.as_deref().unwrap_or(default);
        match text.parse() {
            Ok(address) => address,
            Err(_) => {
                self.add(path, format!("`{text}` is no address; write `127.0.0.1:8443` or `[::]:8443`"));
                SocketAddr::from(([127, 0, 0, 1], 0))
            }
        }
    }
}

impl Raw {
    pub fn validate(self, base: &Path) -> Result<Config, Vec<String>> {
        let mut problems = Problems::default();
        let p = &mut problems;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kubernetes = self.kubernetes.validate(base, p);
        let queue = self.queue.validate(p);
        let activator = self.activator.map(|activator| activator.validate(base, &kubernetes, &queue, p));
        let mut config = Config {
            listen: p.address("listen", &self.listen, "127.0.0.1:8443"),
            // On the loopback: who can read metrics and drain the server must already be on the machine.
            admin: p.address("admin", &self.admin, "127.0.0.1:15020"),
            threads: p.count("threads", self.threads, cores),
            interception: self.interception.validate(p),
            tls: self.tls.validate(base, p),
            auth: self.auth.validate(base, &kubernetes, p),
            policy: self.policy.map(|policy| policy.validate(base, p)),
            xfcc: inbound::xfcc(self.xfcc.as_deref(), p),
            device: self.device.map(|device| device.validate(base, p)),
            kubernetes,
            readiness: None,
            behind: behind(self.worker, self.forward, activator, base, p),
            queue,
            timeouts: self.timeouts.validate(p),
            limits: self.limits.validate(p),
            cold: self.cold.validate(p),
            rate_limits: self.rate_limits.validate(p),
            access_log: self.access_log.unwrap_or(true),
            audit: self.audit.map(|audit| audit.validate(base, p)),
            drain: self.drain.validate(p),
            probes: self.probes.validate(p),
            healthz: self.healthz.as_ref().map(|_| p.address("healthz", &self.healthz, "")),
            outbound: self.outbound.map(|outbound| outbound.validate(base, p)),
            served: self.ext_authz_server.map(|served| served.validate(p)),
            knative: self.knative.map(|knative| knative.validate(p)),
            upgrade: self.upgrade.map(|upgrade| upgrade.validate(base, p)),
        };
        config.readiness = self.readiness.and_then(|readiness| readiness.validate(&config.behind, p));
        contradictions(&config, p);
        if problems.0.is_empty() { Ok(config) } else { Err(problems.0) }
    }
}

/// What two sections say that cannot both be.
fn contradictions(config: &Config, p: &mut Problems) {
    if let Some(served) = &config.served {
        served.check_identity(config.tls.source.is_some(), p);
    }
    if !config.tls.any() && config.auth.methods.contains(&Method::Mtls) {
        p.add("auth.methods", "mtls needs client certificates, and tls.mode is `disable`");
    }
    let original = matches!(&config.behind, Behind::Forward(Forward { to: Destination::Original(_), .. }));
    if original && !config.interception.inbound {
        p.add("forward.to", "`original` needs interception.inbound: only a redirect tells where a caller was going");
    }
    if let Behind::Pods(activator) = &config.behind {
        activator.check(config, p);
    }
    if let (Behind::Forward(_) | Behind::Pods(_), Some(at)) = (&config.behind, config.rate_limits.model_at()) {
        p.add(&at, "a foreign server's requests are not read, so their model is unknown here; use when.path_prefix");
    }
    if config.device.is_some() && !config.sleeps() {
        p.add("device", "needs what can be put to sleep: worker.command, worker.target or forward.sleep");
    }
    if config.listen == config.admin && config.listen.port() != 0 {
        p.add("admin", "must not be the address of `listen`");
    }
    if !matches!(config.behind, Behind::Worker(_)) && config.queue.cost == Cost::Tokens {
        p.add("queue.cost", "a foreign server's requests are not read, so their tokens are unknown here; use requests");
    }
    if config.queue.bytes_max < config.limits.body_bytes_max {
        p.add("queue.bytes_max", "must be at least limits.body_bytes_max, or the largest request could never wait");
    }
    if let Some(outbound) = &config.outbound {
        let mutual = |tls: &Origination| matches!(tls, Origination::Mutual { .. });
        if config.tls.source.is_none() && outbound.clusters.iter().any(|cluster| mutual(&cluster.tls)) {
            p.add("outbound.clusters", "`mode: mutual` needs an identity; name a source of one under `tls`");
        }
        let taken = [config.listen, config.admin].contains(&outbound.listen);
        if taken && outbound.listen.port() != 0 {
            p.add("outbound.listen", "must be an address of its own");
        }
    }
}

fn behind(
    worker: Option<RawWorker>,
    forward: Option<RawForward>,
    activator: Option<Activator>,
    base: &Path,
    p: &mut Problems,
) -> Behind {
    match (worker, forward, activator) {
        (Some(worker), None, None) => Behind::Worker(worker.validate(base, p)),
        (None, Some(forward), None) => Behind::Forward(forward.validate(base, p)),
        (None, None, Some(activator)) => Behind::Pods(activator),
        (worker, ..) => {
            p.add("worker", "exactly one of `worker`, `forward` and `activator` says who answers");
            Behind::Worker(worker.unwrap_or_default().validate(base, &mut Problems::default()))
        }
    }
}

impl RawLimits {
    fn validate(self, p: &mut Problems) -> Limits {
        let seconds = Duration::from_secs;
        let streams_max = self.streams_max.unwrap_or(256);
        if streams_max == 0 {
            p.add("limits.streams_max", "must be at least 1");
        }
        Limits {
            // Room for a tensor of four million floats or a very long conversation.
            body_bytes_max: p.size("limits.body_bytes_max", &self.body_bytes_max, 16 * MIB),
            body_timeout: p.duration("limits.body_timeout", &self.body_timeout, seconds(30)),
            header_timeout: p.duration("limits.header_timeout", &self.header_timeout, seconds(60)),
            write_timeout: p.duration("limits.write_timeout", &self.write_timeout, seconds(60)),
            handshake_timeout: p.duration("limits.handshake_timeout", &self.handshake_timeout, seconds(10)),
            // A handshake costs about a millisecond of CPU: more at once only makes all of them late.
            handshakes_max: p.count("limits.handshakes_max", self.handshakes_max, 256),
            connections_max: p.count("limits.connections_max", self.connections_max, 10_000),
            streams_max,
            idle_timeout: p.duration("limits.idle_timeout", &self.idle_timeout, 10 * MINUTE),
            connection_age_max: p.optional("limits.connection_age_max", &self.connection_age_max, Some(60 * MINUTE)),
            // Long enough for an answer that runs to end, short against the life of a certificate.
            connection_age_grace: p.optional(
                "limits.connection_age_grace",
                &self.connection_age_grace,
                Some(10 * MINUTE),
            ),
        }
    }
}
