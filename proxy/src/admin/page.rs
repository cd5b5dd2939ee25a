//! The status page: one self-contained HTML text, no scripts, nothing fetched from elsewhere.

use crate::admission::Snapshot;
use crate::config::TlsMode;
use crate::dialects::{Facts, ModelFacts};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// What it shows.
pub struct Page {
    pub listen: SocketAddr,
    pub tls: TlsMode,
    pub facts: Facts,
    pub snapshot: Snapshot,
    pub up: Duration,
}

const HEAD: &str = r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width"><title>outrider</title><style>
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884;vertical-align:top}
pre{background:#8882;padding:.8rem;overflow-x:auto;border-radius:4px}.bad{color:#c33}
</style></head><body>"#;

pub fn render(page: &Page) -> String {
    let snapshot = &page.snapshot;
    let mut html = String::from(HEAD);
    let state = if snapshot.draining { "draining" } else { "serving" };
    let _ = write!(html, "<h1>outrider is {state}</h1><p>Up {}, on {}.</p>", spoken(page.up), page.listen);
    html.push_str("<p><a href=\"/metrics\">metrics</a> · <a href=\"/healthz/ready\">ready</a> · ");
    html.push_str("<a href=\"/healthz/live\">live</a> · <a href=\"/config_dump\">configuration</a></p>");
    html.push_str("<h2>Worker</h2><table>");
    row(&mut html, "State", snapshot.worker);
    if let Some(reason) = &snapshot.reason {
        let _ = write!(html, "<tr><th>Last start failed</th><td class=\"bad\">{}</td></tr>", escaped(reason));
    }
    row(&mut html, "Running", &snapshot.running.to_string());
    queue_rows(&mut html, snapshot);
    let starts = format!("{}, {} failed, {} crashes", snapshot.starts, snapshot.start_failures, snapshot.crashes);
    row(&mut html, "Starts", &starts);
    let good = snapshot.starts.saturating_sub(snapshot.start_failures);
    if good > 0 {
        row(&mut html, "Mean start", &format!("{:.2} s", snapshot.wake_seconds_sum / good as f64));
    }
    html.push_str("</table><h2>Models</h2><table><tr><th>Name</th><th>Kind</th><th>Parameters</th><th>Context</th>");
    html.push_str("<th>Device</th></tr>");
    page.facts.models.iter().for_each(|model| model_row(&mut html, model));
    html.push_str("</table>");
    how_to_call(&mut html, page);
    html.push_str("</body></html>");
    html
}

fn row(html: &mut String, name: &str, value: &str) {
    let _ = write!(html, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
}

fn queue_rows(html: &mut String, snapshot: &Snapshot) {
    if let Some(capacity) = snapshot.capacity {
        row(html, "Running cost", &format!("{} of {capacity} tokens", snapshot.cost));
    }
    let depths: Vec<String> = snapshot.depths.iter().take(snapshot.bands).map(ToString::to_string).collect();
    let bands = if depths.len() > 1 { format!("; by band: {}", depths.join(", ")) } else { String::new() };
    let (waiting, bytes, flows) = (snapshot.waiting, snapshot.waiting_bytes, snapshot.flows);
    row(html, "Waiting", &format!("{waiting} ({bytes} bytes) of {flows} callers{bands}"));
    let dropped = snapshot.dropped.named().filter(|(_, requests)| *requests > 0);
    let dropped: Vec<String> = dropped.map(|(outcome, requests)| format!("{outcome} {requests}")).collect();
    if !dropped.is_empty() {
        row(html, "Dropped", &dropped.join(", "));
    }
}

fn model_row(html: &mut String, model: &ModelFacts) {
    let name = escaped(&model.name);
    let _ = match &model.info {
        Some(info) => write!(
            html,
            "<tr><td>{name}</td><td>{} {}</td><td>{:.1} M</td><td>{}</td><td>{}</td></tr>",
            escaped(&info.architecture),
            escaped(&info.quantization),
            info.parameters as f64 / 1e6,
            info.context_length,
            escaped(&info.device)
        ),
        None => {
            write!(html, "<tr><td>{name}</td><td colspan=\"4\">not started yet; the first request starts it</td></tr>")
        }
    };
}

/// Whoever reads this has `client.env` of `outrider up`, or knows what to put in its place.
fn how_to_call(html: &mut String, page: &Page) {
    let model = page.facts.models.first().map_or("MODEL", |model| &model.name);
    let (scheme, certificates) = match page.tls {
        TlsMode::Disable => ("http", ""),
        TlsMode::Simple => ("https", " \\\n  --cacert $OUTRIDER_CA"),
        TlsMode::Permissive | TlsMode::Strict => {
            ("https", " \\\n  --cacert $OUTRIDER_CA --cert $OUTRIDER_CERT --key $OUTRIDER_KEY")
        }
    };
    let call = format!(
        "curl -N {scheme}://{}/v1/chat/completions{certificates} \\\n  -H \"authorization: Bearer $OUTRIDER_TOKEN\" \
         -H 'content-type: application/json' \\\n  -d '{{\"model\": \"{model}\", \"stream\": true, \
         \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'",
        page.listen
    );
    let _ = write!(html, "<h2>How to call</h2><pre>{}</pre>", escaped(&call));
}

fn spoken(up: Duration) -> String {
    let seconds = up.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, character| {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_the_page_escape_what_others_wrote() {
        let models = vec![ModelFacts { name: "<script>".into(), info: None }];
        let page = Page {
            listen: "127.0.0.1:1".parse().unwrap(),
            tls: TlsMode::Permissive,
            facts: Facts { models, ..Facts::default() },
            snapshot: Snapshot { worker: "backoff", reason: Some("a & b".into()), ..Snapshot::default() },
            up: Duration::from_secs(3700),
        };
        let html = render(&page);
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;") && html.contains("a &amp; b"));
        assert!(html.contains("1 h 1 min"));
    }
}
