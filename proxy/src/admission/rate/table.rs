//! The budgets of many keys, bounded in number.
//!
//! A key's budget is forgotten only when it is full, which is when forgetting it changes nothing. Where no room is left
//! and none of those looked at is full, newcomers share one budget: a flood of made-up keys starves itself, and can reset
//! nobody else's.

use super::bucket::{Bucket, Rate};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

/// Budgets looked at for each newcomer to a table without room: a hand that goes round, so that its cost is the same
/// however large the table is.
const LOOKS: usize = 8;

/// Keys are hashes with a secret already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

struct Slot {
    key: u64,
    bucket: Bucket,
}

pub struct Table {
    places: HashMap<u64, usize, BuildHasherDefault<AsItIs>>,
    slots: Vec<Slot>,
    keys_max: usize,
    hand: usize,
    /// Of those without a place.
    crowd: Bucket,
}

impl Table {
    /// `rate` is the crowd's.
    pub fn new(keys_max: usize, rate: Rate) -> Table {
        let crowd = Bucket::new(rate, Duration::ZERO);
        Table { places: HashMap::default(), slots: Vec::new(), keys_max: keys_max.max(1), hand: 0, crowd }
    }

    /// The budget of `key`, full if it is new.
    pub fn bucket(&mut self, key: u64, rate: Rate, now: Duration) -> &mut Bucket {
        let place = self.places.get(&key).copied().or_else(|| self.settle(key, rate, now));
        match place {
            Some(place) => {
                let bucket = &mut self.slots[place].bucket;
                bucket.tune(rate, now);
                bucket
            }
            None => &mut self.crowd,
        }
    }

    fn settle(&mut self, key: u64, rate: Rate, now: Duration) -> Option<usize> {
        let slot = Slot { key, bucket: Bucket::new(rate, now) };
        let place = if self.slots.len() < self.keys_max {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let place = self.vacant(now)?;
            self.places.remove(&self.slots[place].key);
            self.slots[place] = slot;
            place
        };
        self.places.insert(key, place);
        Some(place)
    }

    fn vacant(&mut self, now: Duration) -> Option<usize> {
        for _ in 0..LOOKS.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            if self.slots[self.hand].bucket.is_full(now) {
                return Some(self.hand);
            }
        }
        None
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn can_a_flood_of_keys_reset_anybody() {
        let rate = Rate::new(10, 10, MINUTE);
        let mut table = Table::new(100, rate);
        assert!(table.bucket(7, rate, Duration::ZERO).take(10, Duration::ZERO));
        let passed = (1000..100_000).filter(|key| table.bucket(*key, rate, Duration::ZERO).take(1, Duration::ZERO));
        // Those who came while there was room, and ten of the crowd.
        assert_eq!(passed.count(), 99 + 10);
        assert!(!table.bucket(7, rate, Duration::ZERO).take(1, Duration::ZERO));
        assert_eq!(table.len(), 100);
    }

    #[test]
    fn who_makes_room() {
        let rate = Rate::new(10, 10, MINUTE);
        let mut table = Table::new(8, rate);
        for key in 0..8 {
            table.bucket(key, rate, Duration::ZERO).charge(if key == 3 { 1 } else { 20 }, Duration::ZERO);
        }
        // A tenth of a window later one is full again.
        let later = MINUTE / 10;
        assert!(table.bucket(100, rate, later).take(10, later));
        assert!(!table.bucket(100, rate, later).take(1, later), "it has a place");
        assert_eq!(table.bucket(2, rate, later).left(later), 0);
        assert_eq!((table.len(), table.places.len()), (8, 8));
    }

    proptest! {
        #[test]
        fn is_a_key_with_a_place_never_forgotten_while_it_owes(
            keys in prop::collection::vec((0u64..40, 1u64..4, 0u64..100), 1..300),
        ) {
            let rate = Rate::new(5, 5, Duration::from_nanos(400));
            let (mut table, mut now) = (Table::new(8, rate), Duration::ZERO);
            let mut alone: HashMap<u64, Bucket> = HashMap::new();
            for (key, count, passed) in keys {
                now += Duration::from_nanos(passed);
                let known = table.places.contains_key(&key) || table.slots.len() < 8;
                let took = table.bucket(key, rate, now).take(count, now);
                let model = alone.entry(key).or_insert_with(|| Bucket::new(rate, Duration::ZERO));
                if known {
                    // Whoever was counted in the crowd meanwhile may have more here, never less.
                    let may = model.clone().take(count, now);
                    prop_assert!(took || !may);
                }
                if took {
                    model.charge(count, now);
                }
                prop_assert!(table.slots.len() <= 8 && table.places.len() == table.slots.len());
            }
        }
    }
}
