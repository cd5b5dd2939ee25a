//! Whom to ask when there are too many to ask all, and what to make of the answers.

use crate::scale::stats::Report;

/// As for a mean within 5 at 95 % confidence, of an endless population whose variance is 100.
const ENDLESS: f64 = 1.96 * 1.96 * 100.0 / (5.0 * 5.0);

/// How many of so many pods to ask.
pub fn size(pods: usize) -> usize {
    if pods <= 3 {
        return pods;
    }
    let pods = pods as f64;
    (pods * ENDLESS / (pods + ENDLESS - 1.0)).ceil() as usize
}

/// In which order to ask, until enough have answered. Pods younger than the window say less than is true, so they stand
/// behind the rest; among those of which not all are needed, chance decides: `below` gives a number below its argument.
pub fn order<T>(mut old: Vec<T>, mut young: Vec<T>, below: impl FnMut(usize) -> usize) -> Vec<T> {
    let enough = old.len() >= size(old.len() + young.len());
    shuffle(if enough { &mut old } else { &mut young }, below);
    old.append(&mut young);
    old
}

fn shuffle<T>(items: &mut [T], mut below: impl FnMut(usize) -> usize) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(i + 1) % (i + 1));
    }
}

/// What all pods together have, if those who answered are like the rest. `None`: too few answered to say.
pub fn whole(answers: &[Report], pods: usize) -> Option<Report> {
    if answers.is_empty() || answers.len() < size(pods) {
        return None;
    }
    let factor = pods as f64 / answers.len() as f64;
    let sum = |of: fn(&Report) -> f64| answers.iter().map(of).sum::<f64>() * factor;
    Some(Report {
        concurrency: sum(|report| report.concurrency),
        proxied_concurrency: sum(|report| report.proxied_concurrency),
        requests: sum(|report| report.requests),
        proxied_requests: sum(|report| report.proxied_requests),
        tokens_waiting: sum(|report| report.tokens_waiting),
        kv_used: sum(|report| report.kv_used),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_are_asked() {
        let rows = [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 3),
            (4, 4),
            (5, 4),
            (10, 7),
            (20, 9),
            (50, 12),
            (100, 14),
            (1000, 16),
            (1_000_000, 16),
        ];
        for (pods, expected) in rows {
            assert_eq!(size(pods), expected, "{pods} pods");
        }
    }

    #[test]
    fn who_is_asked_first() {
        let order = |old: usize, young: usize, below: fn(usize) -> usize| {
            order((0..old).collect(), (100..100 + young).collect(), below)
        };
        assert_eq!(order(3, 2, |_| 0), [0, 1, 2, 101, 100], "all the old, and the young by chance");
        assert_eq!(order(5, 1, |_| 0), [1, 2, 3, 4, 0, 100], "the old by chance, the young only as back-ups");
        assert_eq!(order(0, 2, |n| n), [101, 100], "a number that is not below does no harm");
    }

    #[test]
    fn is_the_mean_of_the_sample_that_of_all() {
        let answer = |concurrency| Report { concurrency, kv_used: 0.5, ..Report::default() };
        let answers: Vec<Report> = (1..=7).map(|i| answer(f64::from(i))).collect();
        let all = whole(&answers, 10).unwrap();
        assert_eq!((all.concurrency, all.kv_used), (40.0, 5.0));
        assert_eq!(whole(&answers[1..], 10), None, "six of seven");
        assert_eq!(whole(&[], 0), None);
    }
}
