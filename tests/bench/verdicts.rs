//! A cached verdict: what an authenticated caller costs when the API server is not asked. Goal: one microsecond.

use criterion::{Criterion, criterion_group, criterion_main};
use outrider::auth::verdicts::{Answer, Limits, Verdicts};
use std::hint::black_box;

fn cached(c: &mut Criterion) {
    let verdicts: Verdicts<u32> = Verdicts::new(Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // About as long as a service account's token.
    let token = "x".repeat(1000);
    let key = verdicts.key(token.as_bytes(), ["models"]);
    let answer = || async {
        let (subject, issuer) = ("system:serviceaccount:models:caller".to_owned(), "https://cluster.test".to_owned());
        Ok(Answer { good: true, value: 7, bytes: 100, subject, issuer, expires_at_unix: None })
    };
    runtime.block_on(verdicts.ask(&key, 0, answer)).expect("an answer");
    c.bench_function("a cached verdict, by a token of 1000 bytes", |b| {
        b.iter(|| {
            let key = verdicts.key(black_box(token.as_bytes()), ["models"]);
            verdicts.cached(&key, 1).expect("it is kept")
        })
    });
}

criterion_group!(benches, cached);
criterion_main!(benches);
