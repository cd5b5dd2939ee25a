//! Pods that are made, become ready and go.

use super::*;

impl World<'_> {
    pub(super) fn reconcile(&mut self) {
        let counts = |pod: &usize| matches!(self.pods[*pod].phase, Phase::Starting | Phase::Ready);
        let mut alive: Vec<usize> = self.here.iter().copied().filter(counts).collect();
        while alive.len() < self.replicas as usize {
            let gate = Gate::new(self.nature.limit, self.nature.requests_max, self.nature.idle_timeout);
            alive.push(self.pods.len());
            self.here.push(self.pods.len());
            self.pods.push(Pod::new(gate, self.now));
            self.keepers.push(0);
            let takes = if self.chance.hits(3) { 1200.0 } else { 1.0 + self.chance.exponential(8.0) };
            self.after(takes, Event::PodReady(self.pods.len() - 1));
        }
        self.ends.peak = self.ends.peak.max(alive.len() as u64);
        // Those that take no requests yet go first, then the newest.
        alive.sort_by_key(|pod| (self.pods[*pod].phase == Phase::Starting, *pod));
        while alive.len() > self.replicas as usize {
            let pod = alive.pop().expect("there are more than wanted");
            if self.pods[pod].phase == Phase::Starting {
                self.go(pod);
                continue;
            }
            self.pods[pod].phase = Phase::Leaving { since: self.now };
            self.at(self.now + self.nature.propagation + SETTLE, Event::Settled(pod));
        }
    }

    pub(super) fn pod_ready(&mut self, pod: usize) {
        if self.pods[pod].phase == Phase::Starting {
            self.pods[pod].phase = Phase::Ready;
            self.publish(self.told.0);
            self.dispatch();
        }
    }

    pub(super) fn perhaps_gone(&mut self, pod: usize) {
        let here = &self.pods[pod];
        if let Phase::Leaving { since } = here.phase
            && self.now >= since + self.nature.propagation + SETTLE
            && here.inside() == 0
        {
            self.go(pod);
        }
    }

    fn go(&mut self, pod: usize) {
        self.pods[pod].phase = Phase::Gone;
        self.here.retain(|other| *other != pod);
    }
}
