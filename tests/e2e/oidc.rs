//! A real OpenID provider (`oidc-provider-mock`): found by its address, its key rotated, and its outage outlived.

use outrider_tests::proxy::{Proxy, Sidecar};
use outrider_tests::python;
use outrider_tests::upstream::Echo;
use std::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_a_provider_followed_through_rotation_and_outage() {
    let echo = Echo::start().await;
    // Free a moment ago; the provider takes it when it comes.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let config = format!(
        "tls: {{mode: disable}}\nforward: {{to: '{}'}}\n\
         auth: {{methods: [{{jwt: {{issuer_url: 'http://127.0.0.1:{port}', audience: outrider, algorithms: [RS256]}}}}]}}\n",
        echo.address
    );
    let proxy = Proxy::start(&config, &[]);
    let environment = [
        ("OUTRIDER_URL".to_owned(), format!("http://{}", proxy.address())),
        ("OIDC_PORT".to_owned(), port.to_string()),
    ];
    let script = move || python::run("oidc_client.py", environment);
    tokio::task::spawn_blocking(script).await.expect("the client is content");
    assert!(proxy.log().contains("not accepted: unknown_key"), "the log says why a token was refused");
}
