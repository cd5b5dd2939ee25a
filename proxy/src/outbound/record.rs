//! What is kept of one exchange on its way out: one access-log line of kind `outbound` and one set of measurements,
//! written when the record is dropped, whatever ended the exchange.
//!
//! Never holds a header's value or a byte of a body.

use crate::record::json::Object;
use crate::record::{Journal, rfc3339, status_text, unix_now};
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

impl Record {
    fn line(&self, took: Duration) -> String {
        let mut line = Object::open();
        line.text("time", rfc3339(self.began_unix).as_deref());
        line.text("kind", Some("outbound"));
        line.text("request_id", self.request_id.as_deref());
        line.text("address", Some(&self.caller.to_string()));
        line.text("protocol", Some(self.protocol));
        line.text("method", Some(&self.method));
        line.text("host", Some(&self.host));
        // What comes behind the question mark may be a secret.
        line.text("path", self.path.split('?').next());
        line.text("cluster", Some(&self.cluster));
        line.text("endpoint", self.endpoint.map(|endpoint| endpoint.to_string()).as_deref());
        line.boolean("tls", self.tls);
        line.number("status", self.status);
        if let Some(status) = self.grpc_status {
            line.number("grpc_status", status);
        }
        line.text("label", Some(self.label));
        line.text("reason", self.reason.as_deref());
        line.number("request_bytes", self.request_bytes);
        line.number("response_bytes", self.response_bytes);
        line.seconds("first_byte_seconds", self.first_byte);
        line.seconds("seconds", Some(took));
        line.number("tries", self.tries);
        line.close()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let m = &self.journal.metrics;
        m.outbound.requests.with_label_values(&[&self.cluster, status_text(self.status), self.label]).inc();
        m.outbound.request_seconds.with_label_values(&[&self.cluster]).observe(took.as_secs_f64());
        if self.journal.lines.wanted() {
            self.journal.lines.write(self.line(took));
        }
    }
}
