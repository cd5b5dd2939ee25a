//! What goes wrong: workers that die, nodes that are lost, clocks that step.

use super::*;

impl World<'_> {
    pub(super) fn misfortune(&mut self) {
        if self.now < WEEK {
            let next = self.chance.exponential(self.nature.misfortune_seconds);
            self.after(next, Event::Misfortune);
        }
        match self.chance.below(3) {
            0 => {
                self.ends.clock_steps += 1;
                let most = self.chance.one_of(&[2_000, 60_000, 7_200_000]);
                self.offset += self.chance.from(0, 2 * most) as i64 - most as i64;
            }
            1 if !self.here.is_empty() => {
                let pod = self.chance.one_of(&self.here);
                self.lose_node(pod);
            }
            _ => {
                let up = |pod: &usize| matches!(self.pods[*pod].worker, Worker::Up(_));
                let up: Vec<usize> = self.here.iter().copied().filter(up).collect();
                if !up.is_empty() {
                    let pod = self.chance.one_of(&up);
                    self.crash(pod);
                }
            }
        }
    }

    /// The worker dies: who had begun is told so, who had not keeps its place for the next.
    pub(super) fn crash(&mut self, pod: usize) {
        self.ends.crashes += 1;
        let Worker::Up(generation) = self.pods[pod].worker else { panic!("it is up") };
        let here = &mut self.pods[pod];
        here.worker = Worker::Down;
        assert!(here.gate.lost(generation), "the loss of the worker that is there is news");
        assert!(!here.gate.lost(generation), "and once only");
        for request in std::mem::take(&mut here.running) {
            let (proxied, place) = (self.asked[request].proxied, self.asked[request].place);
            let here = &mut self.pods[pod];
            here.released += 1;
            here.reporter.leave(self.now, proxied);
            assert!(here.gate.release(self.now).is_empty(), "lost: let go to a worker that has died");
            let asked = &mut self.asked[request];
            asked.tries += 1;
            if asked.tries >= TRIES || self.chance.hits(50) {
                self.end(request, End::Crashed);
                continue;
            }
            asked.at = Where::Waiting(pod);
            here.reporter.enter(self.now, proxied);
            here.waiting.insert(request);
            match here.gate.enter(self.now, request, place) {
                Ok(Entered { grants, displaced }) => {
                    assert!(grants.is_empty(), "lost: let go to a worker that has died");
                    assert!(displaced.is_empty(), "who comes back takes nobody's place");
                }
                Err(refused) => {
                    assert_eq!(refused, Refused::Full, "nobody has tried to start it since");
                    here.waiting.remove(&request);
                    here.reporter.leave(self.now, proxied);
                    self.end(request, End::Full);
                }
            }
        }
        self.keep(pod);
        self.pods[pod].check();
        self.perhaps_gone(pod);
        self.dispatch();
    }

    pub(super) fn lose_node(&mut self, pod: usize) {
        self.ends.nodes_lost += 1;
        let here = &mut self.pods[pod];
        here.phase = Phase::Lost;
        self.here.retain(|other| *other != pod);
        let here = &mut self.pods[pod];
        let inside: Vec<Request> = here.running.iter().chain(&here.waiting).copied().collect();
        for request in inside {
            self.end(request, End::Broken);
        }
        self.reconcile();
        self.publish(self.told.0);
    }
}
