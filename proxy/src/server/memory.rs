//! What this process asks of the kernel's memory.

use prometheus::IntGauge;
use std::time::Duration;

/// No huge pages for this process from now on: the allocator's arenas are touched here and there, and each touch would
/// make two megabytes resident. An idle sidecar has half the memory so. Children inherit it.
pub fn no_huge_pages() {
    set_huge_pages_disabled(true);
}

/// Huge pages again, for a child that has weights to hold: between `fork` and `exec`, where only plain system calls may be
/// made.
pub fn huge_pages_again() {
    set_huge_pages_disabled(false);
}

/// A crowd of so many callers leaves more behind than is worth keeping.
const CROWD: i64 = 200;
const LOOK_PERIOD: Duration = Duration::from_secs(2);

// Linked for the function below, whether or not it is this process's allocator.
extern crate mimalloc as _;

unsafe extern "C" {
    /// mimalloc's: gives back what this thread has freed.
    safe fn mi_collect(force: bool);
}

/// Gives memory back to the kernel after crowds, for ever; on each serving thread, for the allocator keeps what a thread
/// has freed until that thread asks for more. `callers`: how many are here.
pub async fn give_back(callers: IntGauge) {
    let mut most = 0;
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let here = callers.get();
        most = most.max(here);
        if most >= CROWD && here < most / 4 {
            mi_collect(true);
            most = here;
        }
    }
}

fn set_huge_pages_disabled(disabled: bool) {
    // SAFETY: changes a flag of this process; on a kernel without it nothing happens.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(disabled), 0, 0, 0) };
}
