//! Who must sleep so that another may wake, where several models share a device. Pure: what is known of each comes in.
//!
//! Never puts a busy one to sleep, and never lets the sum of those that hold memory be more than there is. Who waits longer
//! goes first: others go before it only into room that it leaves.

use serde::{Deserialize, Serialize};

/// One that shares the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Bytes it needs when awake.
    pub needs: u64,
    pub hold: Hold,
    /// Another has asked it to sleep.
    #[serde(default)]
    pub asked: bool,
}

/// Its part of the device. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    Nothing,
    Waits {
        since: u64,
    },
    /// Awake, waking or on its way to sleep.
    Busy,
    Idle {
        since: u64,
    },
}

/// What whoever wants to wake does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// There is room.
    Take,
    /// There will be when these, by their place in the list, sleep.
    Ask(Vec<usize>),
    /// Too many are busy.
    Wait,
    /// It needs more than there is.
    Never,
}

/// For one that needs so much and waits since then (`id` breaks ties); `others`: by their ids.
pub fn plan(memory: u64, needs: u64, (since, id): (u64, usize), others: &[(usize, Member)]) -> Plan {
    if needs > memory {
        return Plan::Never;
    }
    let mut taken = needs;
    let mut idle = Vec::new();
    for (place, (other, member)) in others.iter().enumerate() {
        match member.hold {
            Hold::Nothing => continue,
            Hold::Waits { since: theirs } if (theirs, *other) > (since, id) => continue,
            Hold::Waits { .. } | Hold::Busy => {}
            Hold::Idle { since } => idle.push((since, place)),
        }
        taken = taken.saturating_add(member.needs);
    }
    if taken <= memory {
        return Plan::Take;
    }
    idle.sort_unstable();
    let (mut excess, mut asked) = (taken - memory, Vec::new());
    for (_, place) in idle {
        if excess > 0 {
            excess = excess.saturating_sub(others[place].1.needs);
            asked.push(place);
        }
    }
    if excess > 0 {
        return Plan::Wait;
    }
    spare(taken - memory, &mut asked, others);
    Plan::Ask(asked)
}

/// Those that a larger one makes unnecessary go on; of them, the last used first.
fn spare(excess: u64, asked: &mut Vec<usize>, others: &[(usize, Member)]) {
    let mut freed: u64 = asked.iter().fold(0, |sum, place| sum.saturating_add(others[*place].1.needs));
    for at in (0..asked.len()).rev() {
        let without = freed.saturating_sub(others[asked[at]].1.needs);
        if without >= excess {
            freed = without;
            asked.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(needs: u64, hold: Hold) -> Member {
        Member { needs, hold, asked: false }
    }

    fn planned(needs: u64, others: &[(u64, Hold)]) -> Plan {
        let others: Vec<_> = others.iter().enumerate().map(|(id, (needs, hold))| (id, member(*needs, *hold))).collect();
        plan(20, needs, (100, 9), &others)
    }

    #[test]
    fn who_must_sleep() {
        let idle = |since| Hold::Idle { since };
        for (needs, others, expected) in [
            (8, &[][..], Plan::Take),
            (8, &[(12, Hold::Busy)], Plan::Take),
            (8, &[(12, Hold::Busy), (12, Hold::Nothing)], Plan::Take),
            (21, &[], Plan::Never),
            (8, &[(8, idle(5)), (8, idle(3))], Plan::Ask(vec![1])),
            (16, &[(8, idle(5)), (8, idle(3))], Plan::Ask(vec![1, 0])),
            (8, &[(8, Hold::Busy), (8, idle(5))], Plan::Ask(vec![1])),
            (16, &[(8, Hold::Busy), (8, idle(5))], Plan::Wait),
            (8, &[(8, Hold::Busy), (8, Hold::Busy)], Plan::Wait),
            // The small one that was used least lately need not go where the large one must.
            (16, &[(2, idle(1)), (14, idle(2))], Plan::Ask(vec![1])),
            // Who has waited longer goes first.
            (8, &[(16, Hold::Waits { since: 50 })], Plan::Wait),
            (8, &[(16, Hold::Waits { since: 150 })], Plan::Take),
            (8, &[(12, Hold::Waits { since: 50 })], Plan::Take),
        ] {
            assert_eq!(planned(needs, others), expected, "{needs} beside {others:?}");
        }
    }

    fn holds() -> impl Strategy<Value = Hold> {
        prop_oneof![
            Just(Hold::Nothing),
            Just(Hold::Busy),
            (0u64..10).prop_map(|since| Hold::Idle { since }),
            (0u64..10).prop_map(|since| Hold::Waits { since }),
        ]
    }

    proptest! {
        /// Whatever all of them do, in any order and with news that is a step old: the memory is never exceeded, and no
        /// busy one is stopped.
        #[test]
        fn is_the_memory_never_exceeded(
            needs in prop::collection::vec(1u64..8, 1..6),
            memory in 7u64..16,
            steps in prop::collection::vec((0usize..6, 0u8..4), 0..120),
        ) {
            let mut all: Vec<(usize, Member)> =
                needs.iter().enumerate().map(|(id, needs)| (id, member(*needs, Hold::Nothing))).collect();
            for (now, (who, what)) in steps.into_iter().enumerate() {
                let who = who % all.len();
                let hold = all[who].1.hold;
                match (what, hold) {
                    (0, Hold::Nothing) => all[who].1.hold = Hold::Waits { since: now as u64 },
                    (0 | 1, Hold::Waits { since }) => {
                        let others: Vec<_> = all.iter().filter(|(id, _)| *id != who).cloned().collect();
                        match plan(memory, all[who].1.needs, (since, who), &others) {
                            Plan::Take => all[who].1.hold = Hold::Busy,
                            Plan::Ask(asked) => for place in asked {
                                let id = others[place].0;
                                prop_assert!(matches!(all[id].1.hold, Hold::Idle { .. }), "only an idle one is asked");
                                all[id].1.asked = true;
                            },
                            Plan::Wait => {}
                            Plan::Never => prop_assert!(all[who].1.needs > memory),
                        }
                    }
                    (1, Hold::Busy) => all[who].1.hold = Hold::Idle { since: now as u64 },
                    (2, Hold::Idle { .. }) => { all[who].1.hold = Hold::Busy; all[who].1.asked = false }
                    (3, Hold::Idle { .. }) if all[who].1.asked => all[who].1 = member(needs[who], Hold::Nothing),
                    _ => {}
                }
                let held: u64 = all.iter()
                    .filter(|(_, one)| matches!(one.hold, Hold::Busy | Hold::Idle { .. })).map(|(_, one)| one.needs).sum();
                prop_assert!(held <= memory, "{held} of {memory}: {all:?}");
            }
        }

        /// While nobody is busy, whoever has waited longest gets its room, whatever it needs.
        #[test]
        fn is_the_first_who_waits_never_stuck_behind_idle_ones(
            others in prop::collection::vec((1u64..8, holds()), 0..8), needs in 1u64..8,
        ) {
            let memory: u64 = 20;
            let others: Vec<_> = others.into_iter().enumerate()
                .filter(|(_, (_, hold))| matches!(hold, Hold::Nothing | Hold::Idle { .. }))
                .map(|(id, (needs, hold))| (id, member(needs, hold))).collect();
            match plan(memory, needs, (0, 99), &others) {
                Plan::Take => {}
                Plan::Ask(asked) => {
                    let left: u64 = others.iter().enumerate()
                        .filter(|(place, (_, one))| !asked.contains(place) && one.hold != Hold::Nothing)
                        .map(|(_, (_, one))| one.needs).sum();
                    prop_assert!(left + needs <= memory);
                    for spared in &asked {
                        prop_assert!(left + needs + others[*spared].1.needs > memory, "nobody sleeps for nothing");
                    }
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
