//! Who gets in, and what a stranger learns: nothing.

use crate::{CHAT, chat, shared};
use http_body_util::Full;
use outrider_tests::client::{Answer, Connection, Protocol, Security, anonymous, metric, request, tls};
use outrider_tests::places::{binary, smollm2};
use outrider_tests::up::Up;
use std::path::Path;
use std::process::Command;

fn tiny(arguments: &[&str]) -> Up {
    let model = format!("smollm2={}", smollm2().display());
    Up::start(&[&["--model", &model], arguments].concat())
}

async fn models(up: &Up, protocol: Protocol, security: Security) -> std::io::Result<Answer> {
    let mut connection = Connection::open(up, protocol, security).await?;
    let response = connection.send(request(up, "GET", "/v1/models", "")).await.map_err(std::io::Error::other)?;
    Ok(outrider_tests::client::read(response).await)
}

const WAYS: [(Protocol, Security); 6] = [
    (Protocol::Http1, Security::Plain),
    (Protocol::Http1, Security::Tls),
    (Protocol::Http1, Security::Mtls),
    (Protocol::H2, Security::Plain),
    (Protocol::H2, Security::Tls),
    (Protocol::H2, Security::Mtls),
];

#[tokio::test]
async fn does_permissive_take_all_six_ways_on_one_port() {
    let up = shared();
    for (protocol, security) in WAYS {
        let answer = models(&up, protocol, security).await.expect("an answer");
        assert_eq!(answer.status, 200, "{protocol:?} {security:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn does_strict_take_only_mutual_tls() {
    let up = tiny(&["--tls", "strict"]);
    for (protocol, security) in WAYS {
        let answer = models(&up, protocol, security).await;
        match security {
            Security::Mtls => assert_eq!(answer.expect("an answer").status, 200),
            _ => assert!(answer.is_err(), "{protocol:?} {security:?} was answered"),
        }
    }
    for reason in ["certificate_missing", "plaintext"] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(metric(&up, "outrider_connection_failures_total", &[&label]).await, 2.0, "{reason}");
        assert!(up.log().contains(reason), "the log says why");
    }
}

#[tokio::test]
async fn does_disable_take_only_plaintext() {
    let up = tiny(&["--tls", "disable", "--auth", "none"]);
    assert!(up.url().starts_with("http://"));
    for protocol in [Protocol::Http1, Protocol::H2] {
        let mut connection = Connection::open(&up, protocol, Security::Plain).await.expect("plaintext");
        let request = anonymous(&up, "GET", "/v1/models").body(Full::default()).unwrap();
        assert_eq!(connection.ask(request).await.status, 200, "no credential is asked for");
        assert!(models(&up, protocol, Security::Tls).await.is_err());
    }
}

/// Makes a CA and a leaf with openssl's shape but rcgen's hands, in `folder`: `ca.pem`, `leaf.pem`, `leaf.key`.
fn rogue(folder: &Path) {
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut leaf = rcgen::CertificateParams::default();
    let uri = "spiffe://outrider.local/ns/default/sa/client".try_into().unwrap();
    leaf.subject_alt_names.push(rcgen::SanType::URI(uri));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("leaf.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("leaf.key"), key.serialize_pem()).unwrap();
}

async fn handshakes(up: &Up, certificate: &Path, key: &Path) -> bool {
    let tcp = tokio::net::TcpStream::connect(up.address()).await.unwrap();
    let Ok(mut stream) = tls(tcp, Path::new(up.env("OUTRIDER_CA")), Some((certificate, key)), Protocol::Http1).await
    else {
        return false;
    };
    // In TLS 1.3 a client learns of the refusal only when it reads.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn is_a_certificate_of_a_stranger_refused_in_the_handshake() {
    let up = shared();
    let folder = tempfile::tempdir().unwrap();
    rogue(folder.path());
    let (own_cert, own_key) = (up.env("OUTRIDER_CERT"), up.env("OUTRIDER_KEY"));
    assert!(handshakes(&up, Path::new(own_cert), Path::new(own_key)).await, "the control");
    assert!(!handshakes(&up, &folder.path().join("leaf.pem"), &folder.path().join("leaf.key")).await);
}

fn token(up: &Up, arguments: &[&str]) -> String {
    let state = up.state_dir().to_str().unwrap();
    let output =
        Command::new(binary("outrider")).args(["token", "--state-dir", state]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn is_each_wrong_credential_refused_with_the_same_words() {
    let up = shared();
    let good = up.token().to_owned();
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let mut wrong = vec![
        ("no credential", None),
        ("not a token", Some("Bearer nonsense".to_owned())),
        ("other scheme", Some(format!("Basic {good}"))),
        ("no signature", Some(format!("Bearer {head}.{claims}."))),
        ("alg none", Some(format!("Bearer eyJhbGciOiJub25lIn0.{claims}."))),
        ("other claims", Some(format!("Bearer {head}.e30.{signature}"))),
        ("wrong audience", Some(format!("Bearer {}", token(&up, &["--audience", "someone-else"])))),
    ];
    wrong.push(("oversized", Some(format!("Bearer {}", "a".repeat(40_000)))));
    let mut words = std::collections::BTreeSet::new();
    for (what, credential) in wrong {
        let mut builder = anonymous(&up, "POST", CHAT);
        let shown = credential.is_some();
        if let Some(credential) = credential {
            builder = builder.header("authorization", credential);
        }
        let mut connection = Connection::open(&up, Protocol::Http1, Security::Mtls).await.unwrap();
        let answer = connection.ask(builder.body(Full::from(chat("Hi", 1, false))).unwrap()).await;
        assert!([401, 431].contains(&answer.status.as_u16()), "{what}: {} {}", answer.status, answer.text());
        if answer.status == 401 {
            assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{what}");
        }
        if shown && answer.status == 401 && what != "other scheme" {
            words.insert(answer.json()["error"]["message"].to_string());
        }
    }
    assert_eq!(words.len(), 1, "the words tell the caller which check it failed: {words:?}");
}

#[tokio::test]
async fn is_health_open_and_everything_else_closed_without_a_credential() {
    let up = shared();
    let mut connection = Connection::open(&up, Protocol::H2, Security::Plain).await.unwrap();
    for (path, expected) in [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/smollm2", 401),
        ("/v1/models", 401),
        ("/v2", 401),
    ] {
        let answer = connection.ask(anonymous(&up, "GET", path).body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, expected, "{path}: {}", answer.text());
    }
}
