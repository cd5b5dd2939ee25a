//! What is kept of one exchange on its way out: one access-log line of kind `outbound` and one set of measurements,
//! written when the record is dropped, whatever ended the exchange.
//!
//! Never holds a header's value or a byte of a body.

use crate::record::{Journal, rfc3339, status_text, unix_now};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Record {
    journal: Arc<Journal>,
    began: Instant,
    began_unix: Duration,
    pub caller: SocketAddr,
    pub protocol: &'static str,
    pub method: String,
    pub host: String,
    pub path: String,
    pub request_id: Option<String>,
    /// The cluster's name, which is from the configuration and so bounded; `none` before there is one.
    pub cluster: String,
    pub endpoint: Option<SocketAddr>,
    /// The server's SPIFFE id is what the cluster expects; this says only whether there was TLS.
    pub tls: bool,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub label: &'static str,
    pub reason: Option<String>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub first_byte: Option<Duration>,
    pub tries: u32,
}

impl Record {
    pub fn open(journal: Arc<Journal>, caller: SocketAddr, protocol: &'static str) -> Record {
        Record {
            journal,
            began: Instant::now(),
            began_unix: unix_now(),
            caller,
            protocol,
            method: String::new(),
            host: String::new(),
            path: String::new(),
            request_id: None,
            cluster: "none".into(),
            endpoint: None,
            tls: false,
            // Stays so only if the application leaves before there is an answer.
            status: 499,
            grpc_status: None,
            label: "caller_left",
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            first_byte: None,
            tries: 0,
        }
    }

    /// The head of an answer is on its way to the application.
    pub fn answered(&mut self, status: u16) {
        (self.status, self.label) = (status, "cut");
        self.first_byte = Some(self.began.elapsed());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let m = &self.journal.metrics;
        m.outbound.requests.with_label_values(&[&self.cluster, status_text(self.status), self.label]).inc();
        m.outbound.request_seconds.with_label_values(&[&self.cluster]).observe(took.as_secs_f64());
        let mut line = json!({
            "time": rfc3339(self.began_unix),
            "kind": "outbound",
            "request_id": self.request_id,
            "address": self.caller.to_string(),
            "protocol": self.protocol,
            "method": self.method,
            "host": self.host,
            // What comes behind the question mark may be a secret.
            "path": self.path.split('?').next(),
            "cluster": self.cluster,
            "endpoint": self.endpoint.map(|endpoint| endpoint.to_string()),
            "tls": self.tls,
            "status": self.status,
            "grpc_status": self.grpc_status,
            "label": self.label,
            "reason": self.reason,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "first_byte_seconds": self.first_byte.map(|first| first.as_micros() as f64 / 1e6),
            "seconds": took.as_micros() as f64 / 1e6,
            "tries": self.tries,
        });
        if let Some(fields) = line.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        self.journal.write(line.to_string());
    }
}
