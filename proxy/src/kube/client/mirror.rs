//! A collection as it is now, kept by what is told of it. Pure.
//!
//! Holds objects whole: whoever follows Secrets holds secrets, and shows them to nobody.

use super::Change;
use serde_json::Value;
use std::collections::BTreeMap;

/// Namespace and name.
pub type Place = (String, String);

#[derive(Default)]
pub struct Mirror {
    objects: BTreeMap<Place, Value>,
}

impl Mirror {
    /// Returns whether anything is other than before.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::All(all) => {
                let all: BTreeMap<Place, Value> = all.into_iter().map(|object| (place(&object), object)).collect();
                let other = all != self.objects;
                self.objects = all;
                other
            }
            Change::Put(object) => match self.objects.insert(place(&object), object.clone()) {
                Some(before) => before != object,
                None => true,
            },
            Change::Removed(object) => self.objects.remove(&place(&object)).is_some(),
            Change::Failed(_) => false,
        }
    }

    pub fn objects(&self) -> &BTreeMap<Place, Value> {
        &self.objects
    }
}

fn place(object: &Value) -> Place {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::client::ApiError;
    use serde_json::json;

    #[test]
    fn what_is_there_after_each_change() {
        let object = |name: &str, data: u32| json!({"metadata": {"name": name, "namespace": "a"}, "data": data});
        let mut mirror = Mirror::default();
        let cases = [
            (Change::All(vec![object("x", 1), object("y", 1)]), true, 2),
            (Change::Put(object("x", 1)), false, 2),
            (Change::Put(object("x", 2)), true, 2),
            (Change::Put(object("z", 1)), true, 3),
            (Change::Removed(object("y", 9)), true, 2),
            (Change::Removed(object("y", 9)), false, 2),
            (Change::Failed(ApiError::Nonsense("x".into())), false, 2),
            (Change::All(vec![object("x", 2), object("z", 1)]), false, 2),
            (Change::All(vec![]), true, 0),
        ];
        for (change, other, count) in cases {
            let words = format!("{change:?}");
            assert_eq!((mirror.take(change), mirror.objects().len()), (other, count), "{words}");
        }
    }
}
