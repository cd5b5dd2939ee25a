//! The device's own threads: one wake for each run, chunks claimed one by one, and no CPU used when idle.
//!
//! A run is a list of phases, each a number of chunks. All threads claim chunks of the current phase from one
//! counter; whoever finishes a phase's last chunk opens the next one. So a thread that the system takes off its core
//! holds up the others by the one chunk it has, and a thread that wakes late just finds less to do. Waking costs
//! 100 µs or more in some virtual machines: the caller starts at once and never waits for the others to come.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker looks out for the next run before it sleeps: the time between two decode steps of a busy engine.
const LINGER: Duration = Duration::from_micros(200);

/// Fruitless looks at the counter before a waiting thread offers its core to others, about 20 µs.
const SPINS: u32 = 400;

/// One claimed piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub phase: usize,
    pub chunk: usize,
    /// Who works: 0 is the caller of [`Pool::run`], workers count from 1.
    pub thread: usize,
}

type Body = dyn Fn(Step) + Sync;

/// A run in progress. Workers hold it by `Arc`, so that one who comes late finds the counters and nothing to do.
struct Job {
    /// Chunks of each phase; none is 0.
    phases: Vec<u32>,
    /// Current phase in the high half, chunks claimed in the low half (it may run past the phase's chunks).
    ticket: AtomicU64,
    done: AtomicU32,
    failed: AtomicBool,
    /// Good only while a claimed chunk is unfinished: the caller leaves when all are.
    body: *const Body,
}

// `body` is only followed by the holder of an unfinished chunk, and what it points to is `Sync`.
unsafe impl Send for Job {}
unsafe impl Sync for Job {}

impl Job {
    fn phase(ticket: u64) -> usize {
        (ticket >> 32) as usize
    }

    /// Works until the last phase is done.
    fn work(&self, thread: usize) {
        let mut spins = 0;
        loop {
            let seen = self.ticket.load(Ordering::Acquire);
            let Some(chunks) = self.phases.get(Self::phase(seen)) else { return };
            if seen as u32 >= *chunks {
                spins += 1;
                if spins > SPINS {
                    std::thread::yield_now()
                } else {
                    std::hint::spin_loop()
                }
                continue;
            }
            spins = 0;
            let mine = self.ticket.fetch_add(1, Ordering::AcqRel);
            let (mut phase, mut chunk) = (Self::phase(mine), mine as u32);
            // Someone may have been quicker; a claim is good when it is one of the phase's chunks.
            while self.phases.get(phase).is_some_and(|chunks| chunk < *chunks) {
                self.step(Step { phase, chunk: chunk as usize, thread });
                if self.done.fetch_add(1, Ordering::AcqRel) + 1 < self.phases[phase] {
                    break;
                }
                // The last one of a phase opens the next, and takes its first chunk along.
                phase += 1;
                chunk = 0;
                self.done.store(0, Ordering::Relaxed);
                self.ticket.store((phase as u64) << 32 | 1, Ordering::Release);
            }
        }
    }

    fn step(&self, step: Step) {
        // After a failure the rest is only counted: the results are void, and the threads must come to the end.
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let body = unsafe { &*self.body };
        if catch_unwind(AssertUnwindSafe(|| body(step))).is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Shared {
    job: Mutex<Option<Arc<Job>>>,
    /// Address of the current job, for lingering workers to watch without the lock; never followed.
    posted: AtomicPtr<Job>,
    arrived: Condvar,
    sleeping: AtomicUsize,
    closing: AtomicBool,
}

impl Shared {
    fn job(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, thread: usize) {
        while !self.closing.load(Ordering::Acquire) {
            let job = self.job().clone();
            if let Some(job) = job {
                job.work(thread);
            }
            self.linger();
            let mut job = self.job();
            while job.is_none() && !self.closing.load(Ordering::Acquire) {
                self.sleeping.fetch_add(1, Ordering::Relaxed);
                job = self.arrived.wait(job).unwrap_or_else(PoisonError::into_inner);
                self.sleeping.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits a little for a job without sleeping.
    fn linger(&self) {
        let start = Instant::now();
        while start.elapsed() < LINGER {
            for _ in 0..16 {
                if !self.posted.load(Ordering::Acquire).is_null() || self.closing.load(Ordering::Relaxed) {
                    return;
                }
                std::hint::spin_loop();
            }
        }
    }
}

/// A fixed set of threads that work on one run at a time.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time.
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `threads ≥ 1`, of which the caller of [`Pool::run`] is one.
    ///
    /// If the system refuses a thread the pool works with fewer.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let spawn = |thread: usize| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("cpu-device-{thread}"));
            builder.spawn(move || shared.worker(thread)).ok()
        };
        let workers = (1..threads.max(1)).map_while(spawn).collect();
        Pool { shared, workers, running: Mutex::new(()) }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs all chunks of all phases, each phase after the one before it; false if a chunk panicked.
    ///
    /// With `alone`, only the caller works: for runs too small to wake anyone.
    pub fn run(&self, phases: &[u32], alone: bool, body: &(dyn Fn(Step) + Sync + '_)) -> bool {
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let phases: Vec<u32> = phases.iter().copied().filter(|chunks| *chunks > 0).collect();
        // The lifetime is erased: no thread follows `body` after the last chunk is done, and this waits for that.
        let body: *const Body = unsafe { std::mem::transmute::<&(dyn Fn(Step) + Sync + '_), &'static Body>(body) };
        let job = Arc::new(Job {
            phases,
            ticket: AtomicU64::new(0),
            done: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            body,
        });
        let together = !alone && !self.workers.is_empty();
        if together {
            *self.shared.job() = Some(job.clone());
            self.shared.posted.store(Arc::as_ptr(&job).cast_mut(), Ordering::Release);
            if self.shared.sleeping.load(Ordering::Relaxed) > 0 {
                self.shared.arrived.notify_all();
            }
        }
        job.work(0);
        if together {
            self.shared.posted.store(std::ptr::null_mut(), Ordering::Release);
            *self.shared.job() = None;
        }
        !job.failed.load(Ordering::Acquire)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            // Under the lock, so that no worker can miss it between its check and its sleep.
            let _job = self.shared.job();
            self.shared.closing.store(true, Ordering::Release);
            self.shared.arrived.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker cannot panic: chunks are caught.
            let _ = worker.join();
        }
    }
}

/// A value for each thread of a pool, touched by that thread only.
pub struct PerThread<T>(Vec<UnsafeCell<T>>);

unsafe impl<T: Send> Sync for PerThread<T> {}

impl<T: Default> PerThread<T> {
    pub fn new(threads: usize) -> Self {
        PerThread((0..threads).map(|_| UnsafeCell::default()).collect())
    }

    /// # Safety
    /// Only from within a step of the run in progress, with that step's `thread`, one borrow at a time.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn of(&self, thread: usize) -> &mut T {
        unsafe { &mut *self.0[thread].get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_every_chunk_run_once_and_in_the_order_of_phases() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            for round in 0..1000 {
                let phases = [1, 7, 0, 1, 3 + round % 5, 1];
                let counts: Vec<AtomicU32> = phases.iter().map(|_| AtomicU32::new(0)).collect();
                let open: Vec<usize> = (0..phases.len()).filter(|phase| phases[*phase] > 0).collect();
                let ok = pool.run(&phases, round % 7 == 0, &|step| {
                    let phase = open[step.phase];
                    assert!(step.thread < threads);
                    for before in 0..phase {
                        assert_eq!(counts[before].load(Ordering::SeqCst), phases[before]);
                    }
                    counts[phase].fetch_add(1, Ordering::SeqCst);
                });
                assert!(ok);
                let counts: Vec<u32> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
                assert_eq!(counts, phases, "{threads} threads");
            }
        }
    }

    #[test]
    fn does_a_panic_in_a_chunk_end_the_run_and_leave_the_pool_usable() {
        let pool = Pool::new(3);
        assert!(!pool.run(&[5, 5], false, &|step| assert!(step.phase == 0 || step.chunk != 3)));
        assert!(pool.run(&[5, 5], false, &|_| {}));
        assert!(pool.run(&[], false, &|_| {}));
    }
}
