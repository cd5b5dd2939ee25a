//! The Workload API source against a fake: an agent written for these tests from the SPIFFE standard, which gives
//! whatever it is told to and checks that it is asked as the standard says.

use super::*;
use crate::config;
use crate::tls::sources::{self, Source};
use futures_util::{Stream, StreamExt, stream};
use outrider_protos::spiffe::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use outrider_protos::spiffe::{X509svid, X509svidRequest, X509svidResponse};
use std::path::Path;
use std::pin::Pin;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

type Answer = Option<X509svidResponse>;

/// `None`: this workload is unknown.
struct Agent(watch::Receiver<Answer>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    type FetchX509SVIDStream = Pin<Box<dyn Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let mut answers = self.0.clone();
        if answers.borrow().is_none() {
            return Err(Status::permission_denied("no identity issued"));
        }
        answers.mark_changed();
        Ok(Response::new(Box::pin(stream::unfold(answers, |mut answers| async move {
            answers.changed().await.ok()?;
            let answer = answers.borrow_and_update().clone();
            Some((answer.ok_or_else(|| Status::permission_denied("no identity issued")), answers))
        }))))
    }
}

/// A running agent. Dropping it drops its connections too.
struct Running(Option<tokio::runtime::Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.take().expect("there until now").shutdown_background();
    }
}

fn start(socket: &Path, answers: watch::Receiver<Answer>) -> Running {
    let _ = std::fs::remove_file(socket);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = UnixListener::from_std(listener).unwrap();
        let incoming = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(SpiffeWorkloadApiServer::new(Agent(answers)));
        drop(server.serve_with_incoming(incoming.boxed()).await);
    });
    Running(Some(runtime))
}

fn svid(domain: &Domain, spiffe: &str, bundle: &[&Domain]) -> X509svid {
    let pair = domain.sign(spiffe, 600, now());
    let bundle: Vec<u8> = bundle.iter().flat_map(|domain| der(&domain.ca).to_vec()).collect();
    X509svid {
        spiffe_id: spiffe.into(),
        x509_svid: der(&pair).to_vec().into(),
        x509_svid_key: key(&pair).secret_der().to_vec().into(),
        bundle: bundle.into(),
        hint: spiffe.rsplit('/').next().unwrap().into(),
    }
}

fn answer(svids: Vec<X509svid>) -> Answer {
    Some(X509svidResponse { svids, ..Default::default() })
}

fn open(socket: &Path, keys: &str) -> (Arc<Identity>, Box<dyn Source>) {
    let yaml = format!(
        "tls: {{mode: strict, trust_domain: {TRUST_DOMAIN}, workload_api: {{socket: {}{keys}}}}}\n\
         auth: {{methods: [{{anonymous: {{}}}}]}}\nworker: {{socket: w.sock, models: [toy]}}",
        socket.display()
    );
    let config = config::Config::parse(&yaml, Path::new("/"), Path::new("test.yaml")).unwrap();
    sources::open(&config.tls).unwrap().unwrap()
}

const SERVER: &str = "spiffe://outrider.local/ns/default/sa/server";

#[tokio::test]
async fn does_identity_follow_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (old, new) = (domain(TRUST_DOMAIN), domain(TRUST_DOMAIN));
    let (identity, source) = open(&socket, "");
    assert!(identity.load().is_none());
    let running = tokio::spawn(source.run(identity.clone()));
    let status = || identity.status(now());
    wait_until("no agent is noticed", || status().renewal_failures > 0).await;
    let words = status().ready(now()).unwrap_err();
    assert!(words.contains("cannot be reached") && words.contains("agent.sock"), "{words}");

    let (tell, answers) = watch::channel(None);
    let agent = start(&socket, answers.clone());
    wait_until("an unknown workload is told so", || {
        status().last_error.is_some_and(|words| words.contains("register one"))
    })
    .await;
    tell.send_replace(answer(vec![svid(&old, SERVER, &[&old])]));
    wait_until("the first identity", || status().generation == 1).await;
    let server = server_config(Mode::Strict, identity.clone());
    let (before, after) = (old.workload(), new.workload());
    assert!(meet(server.clone(), client(&old, Some(&before))).await.is_ok());
    assert!(meet(server.clone(), client(&old, Some(&after))).await.is_err());

    // The root turns over: both are believed for a while, then the new one alone.
    tell.send_replace(answer(vec![svid(&new, SERVER, &[&old, &new])]));
    wait_until("both roots", || status().generation == 2).await;
    for pair in [&before, &after] {
        assert!(meet(server.clone(), client(&new, Some(pair))).await.is_ok());
    }
    tell.send_replace(answer(vec![svid(&new, SERVER, &[&new])]));
    wait_until("the new root", || status().generation == 3).await;
    assert!(meet(server.clone(), client(&new, Some(&before))).await.is_err());

    // Nonsense changes nothing.
    let mut nonsense = svid(&new, SERVER, &[&new]);
    nonsense.x509_svid = b"nonsense".to_vec().into();
    tell.send_replace(answer(vec![nonsense]));
    wait_until("nonsense is told", || status().last_error.is_some_and(|words| words.contains("cannot be read"))).await;
    assert!(meet(server.clone(), client(&new, Some(&after))).await.is_ok());

    // The agent goes, and comes back with a newer one.
    drop(agent);
    let failures = status().renewal_failures;
    wait_until("a lost agent is noticed", || status().renewal_failures > failures).await;
    assert_eq!(status().ready(now()), Ok(()), "what is in force is still good");
    assert!(meet(server.clone(), client(&new, Some(&after))).await.is_ok());
    tell.send_replace(answer(vec![svid(&new, SERVER, &[&new])]));
    let agent = start(&socket, answers);
    wait_until("the agent is found again", || status().generation == 4).await;
    assert_eq!(status().last_error, None);
    running.abort();
    drop(agent);
}

#[tokio::test]
async fn which_of_several_identities_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    let ours = domain(TRUST_DOMAIN);
    let ids = ["first", "second", "third"].map(|name| format!("spiffe://outrider.local/ns/default/sa/{name}"));
    let (_tell, answers) = watch::channel(answer(ids.iter().map(|id| svid(&ours, id, &[&ours])).collect()));
    let socket = folder.path().join("agent.sock");
    let agent = start(&socket, answers);
    let cases =
        [("", Ok(0)), (", hint: second", Ok(1)), (", spiffe_id: 'spiffe://outrider.local/ns/default/sa/third'", Ok(2))];
    let missing = [(", hint: fourth", Err("fourth"))];
    for (keys, want) in cases.into_iter().chain(missing) {
        let (identity, source) = open(&socket, keys);
        let running = tokio::spawn(source.run(identity.clone()));
        let status = || identity.status(now());
        wait_until("an answer", || status().generation > 0 || status().last_error.is_some()).await;
        match want {
            Ok(index) => assert_eq!(status().spiffe.as_ref(), Some(&ids[index])),
            Err(words) => assert!(status().last_error.unwrap().contains(words)),
        }
        running.abort();
    }
    drop(agent);
}

#[tokio::test]
async fn do_federated_bundles_come_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (domain(TRUST_DOMAIN), domain("elsewhere.test"));
    let mut given = answer(vec![svid(&ours, SERVER, &[&ours])]).unwrap();
    given.federated_bundles.insert("spiffe://elsewhere.test".into(), der(&theirs.ca).to_vec().into());
    let (_tell, answers) = watch::channel(Some(given));
    let socket = folder.path().join("agent.sock");
    let agent = start(&socket, answers);
    let (identity, source) = open(&socket, "");
    let running = tokio::spawn(source.run(identity.clone()));
    wait_until("an identity", || identity.load().is_some()).await;
    let server = server_config(Mode::Strict, identity);
    let friend = theirs.sign("spiffe://elsewhere.test/ns/default/sa/friend", 600, now());
    let known = meet(server, client(&ours, Some(&friend))).await.unwrap().unwrap();
    assert_eq!(known.trust_domain(), "elsewhere.test");
    running.abort();
    drop(agent);
}
