//! What this process asks of the kernel's memory.

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

fn set_huge_pages_disabled(disabled: bool) {
    // SAFETY: changes a flag of this process; on a kernel without it nothing happens.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(disabled), 0, 0, 0) };
}
