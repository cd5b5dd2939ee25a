//! Somebody else's TLS against ours: `openssl s_client`, both versions, with and without a certificate.

use super::*;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One line through a server that greets; what openssl printed.
async fn s_client(
    server: Arc<rustls::ServerConfig>,
    arguments: &[&str],
) -> (Result<Option<SpiffeId>, &'static str>, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let child = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &address, "-quiet", "-no_ign_eof", "-verify_return_error"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let met = match tokio_rustls::TlsAcceptor::from(server).accept(tcp).await {
        Ok(mut tls) => {
            let peer = tls.get_ref().1.peer_certificates().and_then(|chain| peer_of(&chain[0]));
            let version = tls.get_ref().1.protocol_version().unwrap();
            tls.write_all(format!("hello over {version:?}\n").as_bytes()).await.unwrap();
            tls.shutdown().await.unwrap();
            let _ = tls.read(&mut [0; 1]).await;
            Ok(peer)
        }
        Err(error) => Err(handshake_reason(&error)),
    };
    let output = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait_with_output());
    (met, String::from_utf8_lossy(&output.await.unwrap().unwrap().stdout).into_owned())
}

#[tokio::test]
async fn does_openssl_get_in() {
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: this machine has no openssl");
        return;
    }
    let ours = domain(TRUST_DOMAIN);
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        crate::files::write_private(&path, text.as_bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pair = ours.workload();
    let (ca, certificate, key) =
        (put("ca.pem", &ours.ca.certificate), put("c.pem", &pair.certificate), put("c.key", &pair.key));
    let strict = server_config(Mode::Strict, held(ours.material()));
    let permissive = server_config(Mode::Permissive, held(ours.material()));
    for (flag, version) in [("-tls1_2", "TLSv1_2"), ("-tls1_3", "TLSv1_3")] {
        let shows = [flag, "-CAfile", &ca, "-cert", &certificate, "-key", &key];
        let (met, printed) = s_client(strict.clone(), &shows).await;
        assert_eq!(met.unwrap().unwrap().service_account(), Some("client"), "{version}");
        assert!(printed.contains(&format!("hello over {version}")), "{printed}");
        let hides = [flag, "-CAfile", &ca];
        let (met, _) = s_client(strict.clone(), &hides).await;
        assert_eq!(met, Err("certificate_missing"), "{version}");
        let (met, printed) = s_client(permissive.clone(), &hides).await;
        assert_eq!(met, Ok(None));
        assert!(printed.contains(&format!("hello over {version}")), "{printed}");
    }
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-CAfile", &ca];
    let (met, _) = s_client(permissive, &old).await;
    assert!(met.is_err(), "TLS 1.1 is over");
}
