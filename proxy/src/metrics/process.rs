//! What is told of the process itself.

use super::{Ledger, raise};
use prometheus::{Counter, IntGauge};

/// As every Prometheus client library names them.
pub(super) struct Process {
    resident_bytes: IntGauge,
    cpu_seconds: Counter,
    open_fds: IntGauge,
}

impl Process {
    pub(super) fn new(l: &Ledger) -> Self {
        let cpu = Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
        let start = l.real("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
        start.set(crate::record::unix_now().as_secs_f64());
        Process {
            resident_bytes: l.gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
            cpu_seconds: l.add(cpu),
            open_fds: l.gauge("process_open_fds", "Number of open file descriptors."),
        }
    }

    /// From `/proc/self` (proc(5)); where there is none, the gauges stay 0.
    pub(super) fn measure(&self) {
        // SAFETY: asks for two constants of the running system.
        let (page, ticks) = unsafe { (libc::sysconf(libc::_SC_PAGESIZE), libc::sysconf(libc::_SC_CLK_TCK)) };
        if let Ok(text) = std::fs::read_to_string("/proc/self/statm") {
            let pages: i64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
            self.resident_bytes.set(pages * page);
        }
        if let Ok(text) = std::fs::read_to_string("/proc/self/stat") {
            // The second field is a name in brackets that may hold anything; utime and stime are 11 and 12 after it.
            let after = text.rsplit_once(") ").map_or("", |(_, after)| after);
            let field = |at| after.split(' ').nth(at).and_then(|field: &str| field.parse::<f64>().ok()).unwrap_or(0.0);
            raise(&self.cpu_seconds, (field(11) + field(12)) / ticks.max(1) as f64);
        }
        if let Ok(folder) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds.set(folder.count() as i64);
        }
    }
}
