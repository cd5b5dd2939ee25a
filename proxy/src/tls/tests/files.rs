//! Identity out of files: what is taken, what is not, and how Kubernetes and an own authority change it.

use super::*;
use crate::config;
use crate::tls::sources::files::{Files, WATCH_PERIOD};
use crate::tls::sources::{self, Source};
use std::path::Path;

#[tokio::test]
async fn are_changed_files_taken_whole_and_bad_ones_not() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let ours = domain(TRUST_DOMAIN);
    let write = |pair: &Pair| {
        crate::files::write_private(&at("key"), pair.key.as_bytes()).unwrap();
        crate::files::write_private(&at("certificate"), pair.certificate.as_bytes()).unwrap();
    };
    write(&ours.workload());
    crate::files::write_private(&at("bundle"), ours.ca.certificate.as_bytes()).unwrap();
    let files = Files {
        certificate: at("certificate"),
        key: at("key"),
        trust_bundle: Some(at("bundle")),
        trust_domain: TRUST_DOMAIN.into(),
        trust: Default::default(),
    };
    let hot = held(files.load().unwrap());
    let watch = tokio::spawn(files.clone().watch(hot.clone(), std::time::Duration::from_millis(5)));
    let serial = |hot: &Identity| hot.load().unwrap().spiffe().unwrap().to_string();

    write(&ours.sign("spiffe://outrider.local/second", 600, now()));
    while serial(&hot) != "spiffe://outrider.local/second" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    std::fs::write(at("certificate"), "garbage").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(serial(&hot), "spiffe://outrider.local/second");
    let words = files.load().unwrap_err().to_string();
    assert!(words.contains("certificate holds no certificate in PEM"), "{words}");
    write(&ours.sign("spiffe://outrider.local/third", 600, now()));
    while serial(&hot) != "spiffe://outrider.local/third" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    watch.abort();
    std::fs::remove_file(at("key")).unwrap();
    let words = files.load().unwrap_err().to_string();
    assert!(words.starts_with("cannot read ") && words.contains("/key: "), "{words}");
}

#[tokio::test]
async fn is_a_swapped_volume_taken_whole() {
    let volume = tempfile::tempdir().unwrap();
    let (old, new) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    // As kubelet does it: a folder for each version, and one link that is renamed over.
    let publish = |version: &str, domain: &Domain, spiffe: &str| {
        let folder = volume.path().join(version);
        std::fs::create_dir(&folder).unwrap();
        let pair = domain.sign(spiffe, 600, now());
        for (name, text) in [("tls.crt", &pair.certificate), ("tls.key", &pair.key), ("ca.crt", &domain.ca.certificate)]
        {
            std::fs::write(folder.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(version, volume.path().join("..data_tmp")).unwrap();
        std::fs::rename(volume.path().join("..data_tmp"), volume.path().join("..data")).unwrap();
    };
    publish("..1", &old, "spiffe://outrider.local/first");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), volume.path().join(name)).unwrap();
    }
    let files = Files {
        certificate: volume.path().join("tls.crt"),
        key: volume.path().join("tls.key"),
        trust_bundle: Some(volume.path().join("ca.crt")),
        trust_domain: TRUST_DOMAIN.into(),
        trust: Default::default(),
    };
    let identity = held(files.load().unwrap());
    let watch = tokio::spawn(files.watch(identity.clone(), WATCH_PERIOD));
    publish("..2", &new, "spiffe://outrider.local/second");
    let spiffe = || identity.status(now()).spiffe.unwrap();
    wait_until("the second version", || spiffe() == "spiffe://outrider.local/second").await;
    // The first look found what was loaded already: that is no rotation.
    assert_eq!(identity.status(now()).rotations, 1);
    let server = server_config(Mode::Strict, identity.clone());
    assert!(meet(server.clone(), caller(&new, &new.workload())).await.is_ok());
    assert!(meet(server, caller(&new, &old.workload())).await.is_err());
    watch.abort();
}

#[tokio::test]
async fn does_a_new_revocation_list_count_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (domain(TRUST_DOMAIN), domain("elsewhere.test"));
    let write =
        |name: &str, text: &str| crate::files::write_private(&folder.path().join(name), text.as_bytes()).unwrap();
    let own = ours.workload();
    for (name, text) in [
        ("c", &own.certificate),
        ("k", &own.key),
        ("b", &ours.ca.certificate),
        ("other", &theirs.ca.certificate),
        ("crl", &String::new()),
    ] {
        write(name, text);
    }
    let (identity, source) =
        open(folder.path(), "certificate: c, key: k, trust_bundle: b, crl: crl, federated: {elsewhere.test: other}");
    let running = tokio::spawn(source.run(identity.clone()));
    let server = server_config(Mode::Strict, identity.clone());
    let friend = theirs.sign("spiffe://elsewhere.test/friend", 600, now());
    let calls = || client(&ours, Some(&friend));
    // The server's own name is an address of the loopback: an ordinary client takes it.
    assert!(meet(server.clone(), calls()).await.is_ok());
    write("crl", &refusals::list(&theirs, &[&friend], now() + 600));
    wait_until("the list", || identity.status(now()).crls == 1).await;
    assert_eq!(meet(server.clone(), calls()).await.unwrap_err().0, "revoked");
    write("crl", "garbage");
    wait_until("garbage is told", || identity.status(now()).last_error.is_some()).await;
    assert!(identity.status(now()).last_error.unwrap().contains("revocation list"));
    assert_eq!(meet(server, calls()).await.unwrap_err().0, "revoked");
    running.abort();
}

fn open(base: &Path, keys: &str) -> (Arc<Identity>, Box<dyn Source>) {
    let yaml = format!(
        "tls: {{mode: strict, trust_domain: {TRUST_DOMAIN}, {keys}}}\n\
         auth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {{socket: w.sock, models: [toy]}}",
    );
    let config = config::Config::parse(&yaml, base, Path::new("test.yaml")).unwrap();
    sources::open(&config.tls).unwrap().unwrap()
}

#[tokio::test]
async fn does_an_own_authority_renew_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let shared = domain(TRUST_DOMAIN);
    std::fs::write(folder.path().join("ca.pem"), &shared.ca.certificate).unwrap();
    std::fs::write(folder.path().join("ca.key"), &shared.ca.key).unwrap();
    let own = "spiffe_id: 'spiffe://outrider.local/ns/dev/sa/me', lifetime: 2s";
    let with = format!("self_signed: {{{own}, authority_certificate: ca.pem, authority_key: ca.key}}");
    let (identity, source) = open(folder.path(), &with);
    let running = tokio::spawn(source.run(identity.clone()));
    let server = server_config(Mode::Strict, identity.clone());
    for generation in 1..4 {
        wait_until("a renewal", || identity.status(now()).generation >= generation).await;
        assert_eq!(identity.status(now()).ready(now()), Ok(()));
        assert!(meet(server.clone(), caller(&shared, &shared.workload())).await.is_ok());
    }
    running.abort();
    // One that nobody else knows.
    let (identity, _) = open(folder.path(), &format!("self_signed: {{{own}}}"));
    let server = server_config(Mode::Strict, identity);
    assert!(meet(server, client(&shared, Some(&shared.workload()))).await.is_err());
}
