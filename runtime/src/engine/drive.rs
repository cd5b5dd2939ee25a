//! The thread that turns the crank, and the handle by which everyone else reaches it.
//!
//! The one place of this room with a lock: a mailbox, emptied between two steps. With nothing to do the thread sleeps
//! on a condition variable. A panic inside the device is not caught: nobody knows what it left behind. It ends the
//! thread, closes every sink unfinished and turns [`EngineHandle::alive`] false; whoever joins the thread should end
//! the process, and the sidecar starts another.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::batch::Forward;
use super::request::{Limits, Request, RequestId, SubmitError};
use super::sink::{EngineError, Sink};
use super::step::{Engine, StepReport};

/// What the mailbox holds.
enum Command {
    Submit(RequestId, Box<Request>, Box<dyn Sink>),
    Cancel(RequestId),
    /// Take nothing new, finish what is here, end.
    Drain,
    /// Abort what is here, end.
    Stop,
}

/// What the engine is doing, as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences being computed.
    pub running: u32,
    /// Sequences that wait to be taken up.
    pub waiting: u32,
    pub kv_blocks_used: u32,
    pub kv_blocks_total: u32,
    /// Since the start:
    pub steps: u64,
    pub prefill_tokens: u64,
    pub cached_tokens: u64,
    pub generated_tokens: u64,
    pub preemptions: u64,
    pub failed_requests: u64,
}

#[derive(Default)]
struct Counters {
    running: AtomicU32,
    waiting: AtomicU32,
    blocks_used: AtomicU32,
    blocks_total: AtomicU32,
    steps: AtomicU64,
    prefill_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    preemptions: AtomicU64,
    failed_requests: AtomicU64,
}

#[derive(Default)]
struct Mailbox {
    commands: VecDeque<Command>,
    /// Sequences in them.
    sequences: usize,
}

struct Shared {
    mailbox: Mutex<Mailbox>,
    wake: Condvar,
    limits: Limits,
    waiting_max: usize,
    requests: AtomicU64,
    counters: Counters,
    /// No new work is taken.
    closed: AtomicBool,
    alive: AtomicBool,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // A holder that panicked has left it whole: nothing in here is half done at any point.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reaches the engine from any thread; cheap to clone. No call ever waits for a step.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

impl EngineHandle {
    /// Validates on the caller's thread and queues. On an error the sink is dropped without a word.
    pub fn submit(&self, request: Request, sink: Box<dyn Sink>) -> Result<RequestId, SubmitError> {
        self.shared.limits.validate(&request)?;
        let choices = request.choices() as usize;
        let mut mailbox = self.shared.mailbox();
        // Under the lock: the thread closes the mailbox under it too, so nothing is put where nobody looks again.
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let waiting = mailbox.sequences + self.shared.counters.waiting.load(Ordering::Relaxed) as usize;
        let waiting_max = self.shared.waiting_max;
        if waiting > 0 && waiting + choices > waiting_max {
            return Err(SubmitError::QueueFull { waiting, waiting_max });
        }
        let id = RequestId(self.shared.requests.fetch_add(1, Ordering::Relaxed));
        mailbox.sequences += choices;
        mailbox.commands.push_back(Command::Submit(id, Box::new(request), sink));
        drop(mailbox);
        self.shared.wake.notify_one();
        Ok(id)
    }

    /// Ends a request without a word to its sink. Closing the sink does the same.
    pub fn cancel(&self, id: RequestId) {
        self.command(Command::Cancel(id));
    }

    /// No new work from now on; what is accepted is finished, then the thread ends.
    pub fn drain(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.command(Command::Drain);
    }

    /// No new work from now on; what runs ends as ABORTED after the current step, then the thread ends.
    pub fn stop(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.command(Command::Stop);
    }

    /// Whether the thread runs. False for good once it has drained, stopped or panicked.
    pub fn alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// What requests are validated against.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let queued = self.shared.mailbox().sequences as u32;
        Stats {
            running: counters.running.load(Ordering::Relaxed),
            waiting: counters.waiting.load(Ordering::Relaxed) + queued,
            kv_blocks_used: counters.blocks_used.load(Ordering::Relaxed),
            kv_blocks_total: counters.blocks_total.load(Ordering::Relaxed),
            steps: counters.steps.load(Ordering::Relaxed),
            prefill_tokens: counters.prefill_tokens.load(Ordering::Relaxed),
            cached_tokens: counters.cached_tokens.load(Ordering::Relaxed),
            generated_tokens: counters.generated_tokens.load(Ordering::Relaxed),
            preemptions: counters.preemptions.load(Ordering::Relaxed),
            failed_requests: counters.failed_requests.load(Ordering::Relaxed),
        }
    }

    fn command(&self, command: Command) {
        self.shared.mailbox().commands.push_back(command);
        self.shared.wake.notify_one();
    }
}

/// Starts the thread. `clock` gives seconds since any fixed moment, never going back.
pub fn drive(
    engine: Engine,
    forward: Box<dyn Forward + Send>,
    clock: Box<dyn Fn() -> f64 + Send>,
) -> std::io::Result<(EngineHandle, JoinHandle<()>)> {
    let shared = Arc::new(Shared {
        mailbox: Mutex::default(),
        wake: Condvar::new(),
        limits: engine.limits(),
        waiting_max: engine.config().waiting_max,
        requests: AtomicU64::new(0),
        counters: Counters::default(),
        closed: AtomicBool::new(false),
        alive: AtomicBool::new(true),
    });
    shared.counters.blocks_total.store(engine.blocks_total() as u32, Ordering::Relaxed);
    let driver = Driver { shared: Arc::clone(&shared), engine, forward, clock, draining: false };
    let thread = std::thread::Builder::new().name("engine".into()).spawn(move || driver.run())?;
    Ok((EngineHandle { shared }, thread))
}

struct Driver {
    shared: Arc<Shared>,
    engine: Engine,
    forward: Box<dyn Forward + Send>,
    clock: Box<dyn Fn() -> f64 + Send>,
    draining: bool,
}

impl Driver {
    fn run(mut self) {
        loop {
            let stop = self.take_commands();
            if stop {
                self.engine.abort((self.clock)());
                return;
            }
            if self.engine.is_idle() {
                if self.draining {
                    return;
                }
                continue;
            }
            let report = self.engine.step(&mut *self.forward, &*self.clock);
            self.count(&report);
        }
    }

    /// Empties the mailbox; sleeps until there is something if nothing else is to be done. True: stop now.
    fn take_commands(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut mailbox = shared.mailbox();
        while mailbox.commands.is_empty() && self.engine.is_idle() && !self.draining {
            mailbox = shared.wake.wait(mailbox).unwrap_or_else(PoisonError::into_inner);
        }
        let commands = std::mem::take(&mut mailbox.commands);
        let mut stop = false;
        for command in commands {
            match command {
                Command::Submit(id, request, sink) => self.engine.enqueue(id, &request, sink, (self.clock)()),
                Command::Cancel(id) => self.engine.cancel(id),
                Command::Drain => self.draining = true,
                Command::Stop => stop = true,
            }
        }
        // Moved from the mailbox's count to the engine's under the lock, so that `submit` counts nothing twice.
        mailbox.sequences = 0;
        self.gauge();
        stop
    }

    fn gauge(&self) {
        let counters = &self.shared.counters;
        counters.running.store(self.engine.running() as u32, Ordering::Relaxed);
        counters.waiting.store(self.engine.waiting() as u32, Ordering::Relaxed);
        counters.blocks_used.store(self.engine.blocks_used() as u32, Ordering::Relaxed);
    }

    fn count(&self, report: &StepReport) {
        self.gauge();
        let counters = &self.shared.counters;
        let add = |counter: &AtomicU64, count: usize| counter.fetch_add(count as u64, Ordering::Relaxed);
        add(&counters.steps, 1);
        add(&counters.prefill_tokens, report.prefill_rows);
        add(&counters.cached_tokens, report.cached_tokens);
        add(&counters.generated_tokens, report.generated);
        add(&counters.preemptions, report.preempted);
        add(&counters.failed_requests, report.failed);
    }
}

impl Drop for Driver {
    /// However the thread ends, by a panic too: nobody may put a request where nobody looks.
    fn drop(&mut self) {
        let mut mailbox = self.shared.mailbox();
        self.shared.closed.store(true, Ordering::Release);
        let left = std::mem::take(&mut *mailbox);
        drop(mailbox);
        for command in left.commands {
            if let Command::Submit(_, _, mut sink) = command {
                sink.fail(EngineError::Stopping);
            }
        }
        self.shared.alive.store(false, Ordering::Release);
    }
}
