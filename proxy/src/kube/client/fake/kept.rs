//! Objects that the fake API server keeps: listed, watched as they change, with versions as etcd gives them.

use serde_json::{Value, json};
use tokio::sync::watch;

/// All of them, and all that happened to them.
pub struct Kept {
    /// Path of a collection, type of event, object; the version is the place in here, plus one.
    events: Vec<(String, &'static str, Value)>,
    /// Counts events; a watch ends when its sender does.
    told: watch::Sender<usize>,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { events: Vec::new(), told: watch::Sender::new(0) }
    }
}

impl Kept {
    /// Whether there ever was such a collection.
    pub fn has(&self, path: &str) -> bool {
        self.events.iter().any(|(at, ..)| at == path)
    }

    /// An empty collection.
    pub fn make(&mut self, path: &str) {
        self.tell(path, "BOOKMARK", json!({"metadata": {}}));
    }

    pub fn put(&mut self, path: &str, object: Value) {
        let known = self.objects(path).iter().any(|one| one["metadata"]["name"] == object["metadata"]["name"]);
        self.tell(path, if known { "MODIFIED" } else { "ADDED" }, object);
    }

    pub fn remove(&mut self, path: &str, name: &str) {
        let object = self.objects(path).into_iter().find(|one| one["metadata"]["name"] == name);
        self.tell(path, "DELETED", object.expect("a test removes what it put"));
    }

    /// Ends all watches, as a server that goes away does.
    pub fn cut(&mut self) {
        self.told = watch::Sender::new(self.events.len());
    }

    fn tell(&mut self, path: &str, kind: &'static str, mut object: Value) {
        object["metadata"]["resourceVersion"] = (self.events.len() + 1).to_string().into();
        self.events.push((path.into(), kind, object));
        self.told.send_replace(self.events.len());
    }

    fn objects(&self, path: &str) -> Vec<Value> {
        let mut objects: Vec<Value> = Vec::new();
        for (_, kind, object) in self.events.iter().filter(|(at, ..)| at == path) {
            let same = |one: &Value| one["metadata"]["name"] == object["metadata"]["name"];
            objects.retain(|one| !same(one));
            if matches!(*kind, "ADDED" | "MODIFIED") {
                objects.push(object.clone());
            }
        }
        objects
    }

    pub fn list(&self, path: &str) -> Value {
        json!({"metadata": {"resourceVersion": self.events.len().to_string()}, "items": self.objects(path)})
    }

    /// What happened in a collection after a version, up to now.
    pub fn since(&self, path: &str, version: usize) -> Vec<Value> {
        let events = self.events.iter().skip(version).filter(|(at, ..)| at == path);
        events.map(|(_, kind, object)| json!({"type": kind, "object": object})).collect()
    }

    /// Tells the newest version, until the watches are cut.
    pub fn told(&self) -> watch::Receiver<usize> {
        self.told.subscribe()
    }
}
