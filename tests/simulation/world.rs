//! One service and its week: callers, a buffer, pods, and an autoscaler, as one list of events in the order of virtual
//! time. Everything that is decided is decided by the real rooms; here is only what happens to them.

mod ends;
mod fleet;
mod misfortune;

pub use ends::Ends;

use crate::chance::Chance;
use crate::gate::{Entered, Gate, Grant, Refused, Request};
use crate::pod::{Phase, Pod, Worker};
use crate::traffic::Traffic;
use ends::End;
use outrider::admission::{Next, Place};
use outrider::scale::autoscale::burst::Mode;
use outrider::scale::autoscale::decide::TICK;
use outrider::scale::autoscale::{Autoscale, Path, Settings, Surroundings, sample};
use outrider::scale::stats::{Announcer, PERIOD, Report};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Whoever is not answered so long after the week is lost.
const AFTER: Duration = Duration::from_secs(2 * 24 * 3600);
/// A pod that goes serves for so long after all callers have forgotten it.
const SETTLE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;
/// By the service's clock, at the beginning.
const EPOCH: u64 = 1_000_000_000;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Leave(Request),
    /// Valid for the turn the request then had.
    Finish(Request, u32),
    Started(usize),
    Stopped(usize),
    /// The keeper's latest deadline; valid if it is still the latest.
    Keeper(usize, u64),
    PodReady(usize),
    Settled(usize),
    /// What callers know from now on: pods, if they go to them and not to the buffer.
    View(Option<Vec<usize>>),
    Second,
    Tick,
    /// The worker dies, if it still is that one.
    Dies(usize, u64),
    Misfortune,
}

/// What happens when; what was said first comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    serial: u64,
    event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Buffer,
    Waiting(usize),
    Running(usize),
    Ended,
}

struct Asked {
    at: Where,
    turn: u32,
    tries: u32,
    place: Option<Place>,
    proxied: bool,
}

/// What this service is like.
struct Nature {
    limit: usize,
    requests_max: usize,
    idle_timeout: Option<Duration>,
    service_seconds: f64,
    failing_starts: u64,
    /// Until callers know.
    propagation: Duration,
    misfortune_seconds: f64,
}

struct View {
    mode: Mode,
    since: Duration,
    pods: Vec<usize>,
}

pub struct World<'a> {
    chance: &'a mut Chance,
    nature: Nature,
    traffic: Traffic,
    now: Duration,
    events: BinaryHeap<Reverse<Due>>,
    serial: u64,
    /// The clock's difference from true time, in milliseconds.
    offset: i64,
    autoscale: Autoscale,
    announcer: Announcer,
    asked: Vec<Asked>,
    open: usize,
    buffer: VecDeque<Request>,
    pods: Vec<Pod>,
    /// Those that are here, in the order of their birth.
    here: Vec<usize>,
    keepers: Vec<u64>,
    replicas: u32,
    view: View,
    told: (Mode, Vec<usize>),
    ticking: bool,
    quiet_since: Duration,
    panicking: Option<u32>,
    ends: Ends,
}

fn settings(chance: &mut Chance, pods: u32, limit: usize) -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        container_concurrency: if limit > 100 { 0 } else { limit as u32 },
        target_burst_capacity: chance.one_of(&[211.0, 20.0, 5.0, 1.0, 0.0, -1.0]),
        window: seconds(chance.one_of(&[60, 30, 6, 300])),
        max_scale_down_rate: chance.one_of(&[2.0, 10.0, 1.1]),
        scale_to_zero_grace_period: seconds(chance.one_of(&[30, 6])),
        scale_to_zero_pod_retention_period: seconds(chance.one_of(&[0, 0, 90])),
        scale_down_delay: seconds(chance.one_of(&[0, 0, 60])),
        min_scale: u32::from(chance.hits(10)),
        max_scale: pods,
        initial_scale: 1,
        activation_scale: if pods > 2 { chance.one_of(&[1, 1, 2]) } else { 1 },
        ..Settings::default()
    }
}

impl<'a> World<'a> {
    pub fn new(chance: &'a mut Chance, pods: u32) -> World<'a> {
        let limit = chance.one_of(&[1, 1, 2, 10, 1000]);
        let settings = settings(chance, pods, limit);
        let rate_max = chance.from(1, 8) as f64 / 2.0;
        let at_once = f64::from(pods) * limit.min(70) as f64;
        let nature = Nature {
            limit,
            requests_max: chance.one_of(&[4, 100, 10_000]),
            idle_timeout: chance.one_of(&[None, Some(Duration::from_secs(20)), Some(Duration::from_secs(180))]),
            service_seconds: (at_once / rate_max).clamp(0.2, 40.0),
            failing_starts: chance.one_of(&[0, 5, 30]),
            propagation: Duration::from_millis(chance.one_of(&[10, 1000, 4000, 45_000])),
            misfortune_seconds: chance.one_of(&[3600.0, 20_000.0, 1e9]),
        };
        let traffic = Traffic::new(chance, rate_max, WEEK);
        let replicas = settings.min_scale;
        let autoscale = Autoscale::new(settings, replicas, 0, Duration::from_secs(EPOCH));
        World {
            chance,
            nature,
            traffic,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            serial: 0,
            offset: 0,
            autoscale,
            announcer: Announcer::default(),
            asked: Vec::new(),
            open: 0,
            buffer: VecDeque::new(),
            pods: Vec::new(),
            here: Vec::new(),
            keepers: Vec::new(),
            replicas,
            view: View { mode: Mode::Proxy, since: Duration::ZERO, pods: Vec::new() },
            told: (Mode::Proxy, Vec::new()),
            ticking: false,
            quiet_since: Duration::ZERO,
            panicking: None,
            ends: Ends::default(),
        }
    }

    pub fn run(mut self) -> Ends {
        self.reconcile();
        self.expect_next();
        let misfortune = self.chance.exponential(self.nature.misfortune_seconds);
        self.after(misfortune, Event::Misfortune);
        while let Some(Reverse(Due { at, event, .. })) = self.events.pop() {
            if at > WEEK + AFTER && self.open == 0 {
                break;
            }
            assert!(at <= WEEK + AFTER, "lost: {} never end", self.open);
            self.now = at;
            self.ends.events += 1;
            self.happen(event);
        }
        assert_eq!(self.open, 0, "lost: {} have not ended", self.open);
        assert_eq!(self.announcer.running(), 0, "permits: the buffer counts who has ended");
        for pod in &self.pods {
            assert!(!pod.is_here() || pod.granted == pod.released, "permits in are not permits out");
        }
        self.ends.pods = self.pods.len() as u64;
        self.ends
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + Duration::from_secs_f64(seconds.min(1e9)), event);
    }

    fn at(&mut self, at: Duration, event: Event) -> u64 {
        self.serial += 1;
        self.events.push(Reverse(Due { at, serial: self.serial, event }));
        self.serial
    }

    /// What the service's clock says.
    fn clock(&self) -> Duration {
        Duration::from_millis((EPOCH as i64 * 1000 + self.now.as_millis() as i64 + self.offset) as u64)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Leave(request) => self.leave(request),
            Event::Finish(request, turn) => self.finish(request, turn),
            Event::Started(pod) => self.started(pod),
            Event::Stopped(pod) => self.stopped(pod),
            Event::Keeper(pod, serial) if self.keepers[pod] == serial => self.keep(pod),
            Event::Keeper(..) => {}
            Event::PodReady(pod) => self.pod_ready(pod),
            Event::Settled(pod) => self.perhaps_gone(pod),
            Event::View(pods) => {
                let mode = if pods.is_some() { Mode::Serve } else { Mode::Proxy };
                let since = if mode == self.view.mode { self.view.since } else { self.now };
                self.view = View { mode, since, pods: pods.unwrap_or_default() };
            }
            Event::Second => self.second(),
            Event::Tick => {
                self.tick();
                self.go_on_ticking();
            }
            Event::Dies(pod, generation) => {
                if self.pods[pod].is_here() && self.pods[pod].worker == Worker::Up(generation) {
                    self.crash(pod);
                }
            }
            Event::Misfortune => self.misfortune(),
        }
    }

    // Callers.

    fn expect_next(&mut self) {
        if let Some(at) = self.traffic.next(self.chance) {
            self.at(at, Event::Arrive);
        }
    }

    fn arrive(&mut self) {
        self.expect_next();
        self.listen();
        let request = self.asked.len();
        self.asked.push(Asked { at: Where::Buffer, turn: 0, tries: 0, place: None, proxied: false });
        self.ends.requests += 1;
        self.open += 1;
        if self.chance.hits(20) {
            let patience = self.chance.exponential(60.0);
            self.after(patience, Event::Leave(request));
        }
        if self.view.mode == Mode::Serve && !self.view.pods.is_empty() {
            let pod = self.chance.one_of(&self.view.pods);
            self.ends.direct += 1;
            match self.pods[pod].phase {
                Phase::Gone => panic!("lost: a caller is sent to a pod that has gone"),
                Phase::Lost => self.end(request, End::Broken),
                _ => self.enter(pod, request, None),
            }
            return;
        }
        self.asked[request].proxied = true;
        self.buffer.push_back(request);
        if let Some(report) = self.announcer.enter(self.now) {
            self.tell(&report);
            assert!(self.replicas > 0, "whoever waits at zero is not decided about at once");
        }
        self.dispatch();
    }

    /// Who is buffered goes to pods that have room.
    fn dispatch(&mut self) {
        while let Some(request) = self.buffer.front().copied() {
            let fits = |pod: &usize| {
                let pod = &self.pods[*pod];
                pod.phase == Phase::Ready && pod.inside() < pod.gate.limit()
            };
            let free: Vec<usize> = self.here.iter().copied().filter(fits).collect();
            let sound: Vec<usize> = free.iter().copied().filter(|pod| !self.pods[*pod].gate.is_backing_off()).collect();
            let free = if sound.is_empty() { free } else { sound };
            if free.is_empty() {
                return;
            }
            let pod = self.chance.one_of(&free);
            self.buffer.pop_front();
            self.enter(pod, request, None);
        }
    }

    fn enter(&mut self, pod: usize, request: Request, place: Option<Place>) {
        let proxied = self.asked[request].proxied;
        let here = &mut self.pods[pod];
        here.reporter.enter(self.now, proxied);
        here.waiting.insert(request);
        self.asked[request].at = Where::Waiting(pod);
        match here.gate.enter(self.now, request, place) {
            Ok(Entered { grants, displaced }) => {
                if here.worker == Worker::Stopping {
                    self.ends.between += 1;
                }
                let asleep = here.gate.awake().is_none();
                for request in displaced {
                    let here = &mut self.pods[pod];
                    assert!(here.waiting.remove(&request), "lost: displaced who does not wait");
                    here.reporter.leave(self.now, self.asked[request].proxied);
                    self.end(request, End::Full);
                }
                self.grant(pod, grants);
                if asleep {
                    self.keep(pod);
                }
            }
            Err(refused) => {
                here.waiting.remove(&request);
                here.reporter.leave(self.now, proxied);
                self.end(request, if refused == Refused::Full { End::Full } else { End::Cold });
            }
        }
        self.pods[pod].check();
    }

    fn grant(&mut self, pod: usize, grants: Vec<Grant>) {
        for grant in grants {
            let here = &mut self.pods[pod];
            assert_eq!(here.worker, Worker::Up(grant.generation), "lost: let go to a worker that is not there");
            assert!(here.waiting.remove(&grant.request), "lost: let go who does not wait");
            here.running.insert(grant.request);
            here.granted += 1;
            let asked = &mut self.asked[grant.request];
            asked.turn += 1;
            (asked.at, asked.place) = (Where::Running(pod), Some(grant.place));
            let (turn, takes) = (asked.turn, self.chance.exponential(self.nature.service_seconds));
            self.after(takes, Event::Finish(grant.request, turn));
            // Some questions kill.
            if self.chance.bits() % 2000 == 0 {
                self.after(takes / 2.0, Event::Dies(pod, grant.generation));
            }
        }
    }

    fn finish(&mut self, request: Request, turn: u32) {
        let asked = &self.asked[request];
        if let (Where::Running(pod), true) = (asked.at, asked.turn == turn) {
            self.release(pod, request, End::Served);
        }
    }

    fn leave(&mut self, request: Request) {
        match self.asked[request].at {
            Where::Ended => {}
            Where::Buffer => {
                self.buffer.retain(|buffered| *buffered != request);
                self.end(request, End::Left);
            }
            Where::Waiting(pod) => {
                let here = &mut self.pods[pod];
                here.gate.leave(self.now, request);
                here.waiting.remove(&request);
                here.reporter.leave(self.now, self.asked[request].proxied);
                here.check();
                self.end(request, End::Left);
                self.perhaps_gone(pod);
            }
            Where::Running(pod) => self.release(pod, request, End::Left),
        }
    }

    fn release(&mut self, pod: usize, request: Request, end: End) {
        let here = &mut self.pods[pod];
        assert!(here.running.remove(&request), "permits: given back twice");
        here.released += 1;
        here.reporter.leave(self.now, self.asked[request].proxied);
        let grants = here.gate.release(self.now);
        self.end(request, end);
        self.grant(pod, grants);
        self.pods[pod].check();
        self.perhaps_gone(pod);
        self.dispatch();
    }

    fn end(&mut self, request: Request, end: End) {
        let asked = &mut self.asked[request];
        assert_ne!(asked.at, Where::Ended, "a request ends once");
        asked.at = Where::Ended;
        self.open -= 1;
        if asked.proxied {
            self.announcer.leave(self.now);
        }
        self.quiet_since = self.now;
        let count = match end {
            End::Served => &mut self.ends.served,
            End::Full => &mut self.ends.full,
            End::Cold => &mut self.ends.cold,
            End::Left => &mut self.ends.left,
            End::Crashed => &mut self.ends.crashed,
            End::Broken => &mut self.ends.broken,
        };
        *count += 1;
    }

    // Workers.

    fn keep(&mut self, pod: usize) {
        let here = &mut self.pods[pod];
        match here.gate.next(self.now) {
            Next::Start => {
                assert_eq!(here.worker, Worker::Down, "two starts of one worker");
                here.worker = Worker::Starting;
                self.ends.starts += 1;
                let takes = if self.chance.hits(5) { 120.0 } else { self.chance.exponential(4.0) + 0.1 };
                self.after(takes, Event::Started(pod));
            }
            Next::Stop => {
                assert!(matches!(here.worker, Worker::Up(_)), "stopped, and was not there");
                assert_eq!(here.inside(), 0, "lost: stopped under {} who are inside", here.inside());
                here.worker = Worker::Stopping;
                self.ends.stops += 1;
                let takes = self.chance.exponential(1.0);
                self.after(takes, Event::Stopped(pod));
            }
            Next::Wait(Some(until)) => {
                let serial = self.serial + 1;
                self.keepers[pod] = serial;
                self.at(until.max(self.now), Event::Keeper(pod, serial));
            }
            Next::Wait(None) => self.keepers[pod] = 0,
        }
        if self.pods[pod].worker != Worker::Starting {
            self.pods[pod].check();
        }
    }

    fn started(&mut self, pod: usize) {
        let here = &mut self.pods[pod];
        if !here.is_here() {
            return;
        }
        assert_eq!(here.worker, Worker::Starting, "two starts of one worker");
        if self.chance.hits(self.nature.failing_starts) {
            self.ends.start_failures += 1;
            here.worker = Worker::Down;
            for request in here.gate.start_failed(self.now) {
                let here = &mut self.pods[pod];
                here.waiting.remove(&request);
                here.reporter.leave(self.now, self.asked[request].proxied);
                self.end(request, End::Cold);
            }
        } else {
            let grants = here.gate.started(self.now);
            here.worker = Worker::Up(here.gate.awake().expect("it has started"));
            self.grant(pod, grants);
        }
        self.pods[pod].check();
        self.keep(pod);
        self.perhaps_gone(pod);
        self.dispatch();
    }

    fn stopped(&mut self, pod: usize) {
        let here = &mut self.pods[pod];
        if !here.is_here() {
            return;
        }
        assert_eq!(here.worker, Worker::Stopping, "stopped, and was not asked to");
        here.worker = Worker::Down;
        here.gate.stopped();
        self.keep(pod);
    }

    fn ready(&self) -> Vec<usize> {
        self.here.iter().copied().filter(|pod| self.pods[*pod].phase == Phase::Ready).collect()
    }

    /// Callers learn of it after a while.
    fn publish(&mut self, mode: Mode) {
        let told = (mode, self.ready());
        if told != self.told {
            self.told = told.clone();
            let pods = (told.0 == Mode::Serve).then_some(told.1);
            self.at(self.now + self.nature.propagation, Event::View(pods));
        }
    }

    // The autoscaler.

    /// Begins to measure and decide, if it did not.
    fn listen(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.quiet_since = self.now;
            self.at(self.now + PERIOD, Event::Second);
            self.at(self.now + TICK, Event::Tick);
        }
    }

    /// Nothing changes where nothing happens: until the next caller, time passes at once.
    fn go_on_ticking(&mut self) {
        let settings = self.autoscale.settings();
        let quiet = settings.window + settings.scale_down_delay + settings.scale_to_zero_grace_period;
        let quiet = quiet + self.nature.propagation;
        let quiet = 2 * (quiet + settings.scale_to_zero_pod_retention_period) + Duration::from_secs(60);
        let settling = |pod: &Pod| matches!(pod.phase, Phase::Starting | Phase::Leaving { .. });
        if self.open > 0 || self.here.iter().any(|pod| settling(&self.pods[*pod])) {
            self.quiet_since = self.now;
        }
        // Steps down are slow where there are many pods: log(30) / log(1.1) of them.
        if self.now - self.quiet_since > quiet + 60 * TICK {
            let least = settings.min_scale;
            assert_eq!(self.replicas, least, "idle for {:?}, and still there", self.now - self.quiet_since);
            self.ticking = false;
        } else {
            self.at(self.now + TICK, Event::Tick);
        }
    }

    fn second(&mut self) {
        if !self.ticking {
            return;
        }
        self.at(self.now + PERIOD, Event::Second);
        if let Some(report) = self.announcer.report(self.now) {
            self.tell(&report);
        }
        let window = self.autoscale.settings().window;
        let (mut old, mut young) = (Vec::new(), Vec::new());
        for pod in self.ready() {
            let report = self.pods[pod].reporter.report(self.now);
            let aged = self.now - self.pods[pod].born >= window;
            if aged { old.push(report) } else { young.push(report) }
        }
        let pods = old.len() + young.len();
        let order = sample::order(old, young, |below| self.chance.below(below));
        let answers: Vec<Report> =
            order.into_iter().filter(|_| !self.chance.hits(2)).take(sample::size(pods)).collect();
        if let Some(report) = sample::whole(&answers, pods) {
            self.tell(&report);
        }
    }

    fn tell(&mut self, report: &Report) {
        if self.autoscale.observe(self.clock(), report) {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let buffered_for = (self.view.mode == Mode::Proxy).then(|| self.now - self.view.since);
        let path = Path { proved: buffered_for.is_some(), buffered_for };
        let ready = self.ready().len() as u32;
        let outcome = self.autoscale.tick(self.clock(), Surroundings { ready: Some(ready), path });
        if let Some(decision) = outcome.decision {
            // A delayed scale-down holds more than the panic does, and lets go of it in its time.
            let delayed = !self.autoscale.settings().scale_down_delay.is_zero();
            if let Some(before) = self.panicking.filter(|_| decision.panicking && !delayed) {
                assert!(decision.want >= before, "taken away in panic: {} of {before}", decision.want);
            }
            self.ends.panics += u64::from(decision.panicking && self.panicking.is_none());
            self.panicking = decision.panicking.then_some(decision.want);
        }
        if let (true, Some(want)) = (outcome.step.apply, outcome.step.want) {
            let (least, most) = self.autoscale.settings().bounds();
            assert!((least..=most).contains(&want), "{want} is not from {least} to {most}");
            if want == 0 && ready > 0 {
                assert_eq!(self.view.mode, Mode::Proxy, "lost: the last pod goes, and callers still know it");
            }
            self.ends.to_zero += u64::from(want == 0 && self.replicas > 0);
            self.ends.from_zero += u64::from(want > 0 && self.replicas == 0);
            self.replicas = want;
            self.reconcile();
        }
        self.publish(outcome.mode);
    }
}
