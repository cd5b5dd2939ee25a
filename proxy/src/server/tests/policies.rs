//! A whole sidecar whose callers are judged by AuthConfigs: who gets through, what stands in the request behind, and
//! what becomes of a stream and of the next request when an operator ends a caller's rights.

use super::forward::{OK, foreign};
use super::*;
use crate::auth::issuer::{Issuer, Token};
use serde_json::json;

/// A folder with one policy, and the keys it trusts.
struct Rules {
    folder: tempfile::TempDir,
    keys: Issuer,
}

const SPEC: &str = "
apiVersion: authorino.kuadrant.io/v1beta3
kind: AuthConfig
metadata: {name: p}
spec:
  hosts: [x]
  authentication: {people: {jwt: {jwksUrl: 'http://KEYS/keys'}}}
  authorization:
    team: {patternMatching: {patterns: [{selector: auth.identity.team, operator: eq, value: red}]}}
  response:
    unauthorized: {code: 404, message: {value: not for you}}
    success: {headers: {x-user: {plain: {selector: auth.identity.sub}}}}
";

impl Rules {
    fn new() -> Rules {
        let keys = Issuer::generate();
        let jwks = keys.jwks();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{jwks}", jwks.len());
        let server = foreign(Some(Box::leak(answer.into_boxed_str())));
        let folder = tempfile::tempdir().unwrap();
        let text = SPEC.replace("KEYS", &server.address.to_string());
        std::fs::write(folder.path().join("p.yaml"), text).unwrap();
        // Whoever hears nothing stops answering.
        std::mem::forget(server);
        Rules { folder, keys }
    }

    fn auth(&self) -> String {
        format!("auth: {{authconfig: {{folder: {}}}}}", self.folder.path().display())
    }

    fn token(&self, subject: &str, id: &str, team: &str) -> String {
        let claims = json!({"jti": id, "team": team}).as_object().unwrap().clone();
        let now = unix_now().as_secs();
        let token = Token { issuer: "i", subject, audience: "a", issued_at_unix: now - 5, ttl_seconds: 600, claims };
        format!("authorization: Bearer {}\r\n", self.keys.mint(token))
    }
}

fn close(credential: &str) -> String {
    format!("{credential}connection: close\r\n")
}

fn invalidate(sidecar: &Sidecar, body: &str) -> String {
    let mut tcp = TcpStream::connect(sidecar.running.admin).unwrap();
    write!(tcp, "POST /auth/invalidate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    read_all(&mut tcp)
}

const ANYBODY: &str = "auth: {methods: [{anonymous: {}}]}";

#[test]
fn who_gets_through_and_what_is_told_behind() {
    let (rules, server) = (Rules::new(), foreign(Some(OK)));
    let yaml = format!("forward: {{to: '{}'}}", server.address);
    let plain = PLAIN.replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", &yaml);
    let sidecar = start(&plain.replace(ANYBODY, &rules.auth()), vec![], Sleepy::default());
    let get = |credential: &str| sidecar.call(&format!("GET /a HTTP/1.1\r\nhost: x\r\n{}\r\n", close(credential)));
    let answer = get(&format!("x-user: root\r\n{}", rules.token("ann", "1", "red")));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let heard = server.heard().to_ascii_lowercase();
    assert!(heard.contains("x-user: ann\r\n") && !heard.contains("root") && !heard.contains("bearer"), "{heard}");
    let answer = get(&rules.token("eve", "2", "blue"));
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("x-ext-auth-reason: not for you"), "{answer}");
    let answer = get("");
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("Bearer realm=\"people\""), "{answer}");
    let answer = sidecar.call("GET /a HTTP/1.1\r\nhost: y\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404"), "a host without a policy: {answer}");
    assert!(server.heard_nothing());
    let line = sidecar.line(|line| line["subject"] == "eve");
    assert!(!line.to_string().contains("eyJ"), "no credential is in the log: {line}");
}

#[test]
fn does_a_stream_end_with_its_callers_rights_and_the_next_request_too() {
    let mut script = generated(&["one"]);
    script.truncate(2);
    script.push(Line::Hang);
    for (order, whose) in [(r#"{"jti": "1"}"#, "its token"), (r#"{"subject": "ann"}"#, "its caller")] {
        let rules = Rules::new();
        let sidecar = start(&PLAIN.replace(ANYBODY, &rules.auth()), vec![script.clone()], Sleepy::default());
        let (ann, bob) = (rules.token("ann", "1", "red"), rules.token("bob", "2", "red"));
        let mut streams = [&ann, &bob].map(|credential| {
            let mut tcp = sidecar.connect();
            tcp.write_all(post("hi", credential).as_bytes()).unwrap();
            let head = read_until(&mut tcp, "one");
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            tcp
        });
        let answer = invalidate(&sidecar, order);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let rest = read_until(&mut streams[0], "broken");
        assert!(!rest.contains("HTTP/1.1"), "{whose}: in band: {rest}");
        sidecar.labelled("credential_refused");
        let refused = sidecar.call(&post("hi", &close(&ann)));
        assert!(refused.starts_with("HTTP/1.1 401"), "{whose}: {refused}");
        wait_for(|| sidecar.fake.open.load(SeqCst) == 1);
        assert_eq!(sidecar.exchange.admission.snapshot().running, 1, "another's stream goes on");
    }
    let rules = Rules::new();
    let sidecar = start(&PLAIN.replace(ANYBODY, &rules.auth()), vec![], Sleepy::default());
    for bad in ["", "{}", r#"{"jti": ""}"#, r#"{"issuer": "i", "until_unix": 1}"#] {
        assert!(invalidate(&sidecar, bad).starts_with("HTTP/1.1 400"), "{bad}");
    }
}
