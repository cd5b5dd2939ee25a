//! The real binaries over real sockets with the real models.

mod activator;
mod authorizer;
mod bad_input;
mod clients;
mod cold;
mod contract;
mod crash;
mod drain;
mod forwarded;
mod hostile;
mod intercept;
mod limits;
mod mesh;
mod oidc;
mod redirect;
mod rotation;
mod security;
mod wake;

use outrider_tests::up::Up;
use std::sync::{Arc, Mutex, Weak};

/// One `outrider up` with both models, shared by the tests that leave it as they found it.
fn shared() -> Arc<Up> {
    static SHARED: Mutex<Weak<Up>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let up = Arc::new(Up::with_models(&[]));
        *shared = Arc::downgrade(&up);
        up
    })
}

/// Tests that count processes or take the whole machine run one at a time.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// A chat request's body: greedy, this many tokens.
fn chat(question: &str, max_tokens: u32, stream: bool) -> String {
    serde_json::json!({
        "model": "smollm2",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": stream,
    })
    .to_string()
}

const CHAT: &str = "/v1/chat/completions";
