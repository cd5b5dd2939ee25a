//! External authorizers, asked by the whole sidecar: what callers and the server behind get of their answers.

use super::forward::{Foreign, OK, behind, foreign};
use super::*;

const CUSTOM: &str = "{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {notPaths: [/open]}}]}]}";

/// A folder with these policies' specs.
fn policies(specs: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, spec) in specs.iter().enumerate() {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}}}\nspec: {spec}\n"
        );
        std::fs::write(folder.path().join(format!("{number}.yaml")), text).unwrap();
    }
    folder
}

fn section(folder: &tempfile::TempDir, provider: &str) -> String {
    format!("policy: {{folder: '{}', providers: {{x: {provider}}}}}", folder.path().display())
}

/// In front of `server`, asking a provider.
fn sidecar(server: &Foreign, folder: &tempfile::TempDir, provider: &str) -> Sidecar {
    behind(&format!("{{to: '{}'}}", server.address), &section(folder, provider))
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: model.test\r\n{headers}connection: close\r\n\r\n")
}

#[test]
fn does_a_caller_hear_the_authorizers_own_words() {
    let no = "HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\nserver: them\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
              content-length: 4\r\n\r\nwho?";
    let (server, authorizer, folder) = (foreign(Some(OK)), foreign(Some(no)), policies(&[CUSTOM]));
    let provider = format!("{{http: 'http://{}/check', timeout: 20s}}", authorizer.address);
    let sidecar = sidecar(&server, &folder, &provider);
    let lie = "x-forwarded-client-cert: URI=spiffe://lie\r\nauthorization: Bearer mine\r\nx-forwarded-for: 9.9.9.9\r\n";
    let answer = sidecar.call(&get("/a?b=1", lie));
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("\r\n\r\nwho?"), "{answer}");
    let lower = answer.to_ascii_lowercase();
    for line in ["www-authenticate: basic", "set-cookie: a=1", "set-cookie: b=2", "x-outrider-refused-by: auth"] {
        assert!(lower.contains(&format!("{line}\r\n")), "{line}: {answer}");
    }
    assert!(!lower.contains("server: them") && lower.matches("content-length").count() == 1, "{answer}");
    assert!(server.heard_nothing());
    let asked = authorizer.heard().to_ascii_lowercase();
    assert!(
        asked.starts_with("get /check/a?b=1 http/1.1\r\n") && asked.contains("authorization: bearer mine"),
        "{asked}"
    );
    assert!(asked.contains("x-forwarded-for: 9.9.9.9,127.0.0.1\r\n") && !asked.contains("lie"), "{asked}");
    let line = sidecar.labelled("denied");
    assert_eq!(
        (line["status"].as_u64(), line["authorizers"][0].as_str()),
        (Some(401), Some("x: denied by default/p0 rules[0]"))
    );
    assert!(!line.to_string().contains("mine"), "{line}");
    let want = "outrider_ext_authz_requests_total{provider=\"x\",result=\"denied\"} 1";
    assert!(sidecar.admin("GET /metrics").contains(want));

    assert!(sidecar.call(&get("/open", "")).starts_with("HTTP/1.1 200"), "nobody is asked about this");
    assert!(authorizer.heard_nothing());
}

#[test]
fn is_what_an_authorizer_says_sent_on_and_seen_by_policy() {
    let yes = "HTTP/1.1 200 OK\r\nx-user: ada\r\nx-envoy-auth-headers-to-remove: cookie\r\ncontent-length: 0\r\n\r\n";
    let deny = "{action: DENY, rules: [{when: [{key: 'request.headers[x-user]', values: [eve]}]}]}";
    let allow = "{action: ALLOW, rules: [{when: [{key: 'request.headers[x-user]', values: [ada]}]}]}";
    let (server, authorizer, folder) = (foreign(Some(OK)), foreign(Some(yes)), policies(&[CUSTOM, deny, allow]));
    let provider = format!("{{http: 'http://{}', headers_to_upstream: [x-user], timeout: 20s}}", authorizer.address);
    let sidecar = sidecar(&server, &folder, &provider);
    let answer = sidecar.call(&get("/a", "x-user: eve\r\ncookie: a=1\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let heard = server.heard().to_ascii_lowercase();
    assert!(heard.contains("x-user: ada\r\n") && !heard.contains("eve") && !heard.contains("cookie"), "{heard}");
    let line = sidecar.labelled("ok");
    assert_eq!(line["authorizers"], serde_json::json!(["x: allowed"]));
    let answer = sidecar.call(&get("/open", "x-user: eve\r\n"));
    assert!(answer.starts_with("HTTP/1.1 403"), "who is not asked about must be allowed all the same: {answer}");
}

#[test]
fn what_does_a_caller_hear_when_nobody_can_be_asked() {
    let (server, folder) = (foreign(Some(OK)), policies(&[CUSTOM]));
    let nobody = TcpStream::connect(server.address).unwrap().local_addr().unwrap();
    let closed = sidecar(&server, &folder, &format!("{{grpc: '{nobody}', timeout: 20s}}"));
    let answer = closed.call(&get("/a", ""));
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not allowed to do this"), "{answer}");
    assert!(server.heard_nothing() && !answer.contains("refused\""), "{answer}");
    let reason = closed.labelled("forbidden")["reason"].to_string();
    assert!(reason.contains("the provider x, which could not be asked"), "{reason}");

    let open = sidecar(&server, &folder, &format!("{{grpc: '{nobody}', timeout: 20s, fail_open: true}}"));
    assert!(open.call(&get("/a", "")).starts_with("HTTP/1.1 200"));
    assert!(open.labelled("ok")["authorizers"][0].as_str().unwrap().starts_with("x: failed open: "));
}

#[test]
fn does_a_question_end_when_its_caller_leaves() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = policies(&[CUSTOM]);
    let provider = format!("{{http: 'http://{}', timeout: 300s}}", silent.local_addr().unwrap());
    let yaml = format!("{PLAIN}{}\n", section(&folder, &provider));
    let sidecar = start(&yaml, vec![generated(&["x"])], Sleepy::default());
    let mut tcp = sidecar.connect();
    tcp.write_all(post("hi", "").as_bytes()).unwrap();
    let (mut asked, _) = silent.accept().unwrap();
    assert!(read_until(&mut asked, "\r\n\r\n").starts_with("POST /toy HTTP/1.1"));
    drop(tcp);
    sidecar.labelled("caller_left");
    let mut byte = [0];
    assert!(matches!(asked.read(&mut byte), Ok(0) | Err(_)), "the question is given up");
    assert_eq!(sidecar.fake.asked().len(), 0);
}

#[tokio::test]
async fn is_a_grpc_caller_told_in_trailers_only() {
    let no = "HTTP/1.1 401 No\r\nx-why: because\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nwho?";
    let (authorizer, folder) = (foreign(Some(no)), policies(&[CUSTOM]));
    let provider = format!("{{http: 'http://{}', timeout: 20s}}", authorizer.address);
    let yaml = format!("{PLAIN}{}\n", section(&folder, &provider));
    let sidecar = start(&yaml, vec![generated(&["x"])], Sleepy::default());
    let tcp = tokio::net::TcpStream::connect(sidecar.running.listen).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://x/toy").header("content-type", "application/grpc").body(()).unwrap();
    let answer = client.send_request(request, true).unwrap().0.await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!((answer.status().as_u16(), header("grpc-status").as_deref()), (200, Some("16")));
    assert_eq!((header("grpc-message").as_deref(), header("x-why").as_deref()), (Some("who?"), Some("because")));
    assert_eq!(header("content-type").as_deref(), Some("application/grpc"));
    assert!(answer.body().is_end_stream() && sidecar.fake.asked().is_empty());
    drop(tokio::task::spawn_blocking(move || drop(sidecar)).await);
}
