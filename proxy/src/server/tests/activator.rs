//! An activator over real sockets: whom it holds, whom it wakes, and where requests go, with sidecars and toys as pods.

use super::forward::{OK, foreign};
use super::*;
use std::net::TcpListener;
use std::path::PathBuf;

/// Answers a probe as queue-proxy does, and every other question likewise.
const QUEUE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nqueue";

/// A service whose pods a file lists.
struct Service {
    folder: tempfile::TempDir,
    concurrency: usize,
    more: String,
}

impl Service {
    fn new(concurrency: usize, more: &str) -> Service {
        Service { folder: tempfile::tempdir().unwrap(), concurrency, more: more.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// These are its pods now; `None`: there is no list.
    fn pods(&self, pods: Option<&[(SocketAddr, bool)]>) {
        let Some(pods) = pods else { return std::fs::remove_file(self.path("pods")).unwrap() };
        let slice = |(address, ready): &(SocketAddr, bool)| {
            let (ip, port) = (address.ip(), address.port());
            format!(
                "---\nkind: EndpointSlice\nports: [{{name: http, port: {port}}}]\n\
                 endpoints: [{{addresses: [{ip}], conditions: {{ready: {ready}}}}}]\n"
            )
        };
        let text: String = pods.iter().map(slice).collect();
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path("pods")).unwrap();
    }

    /// Writes a line to `asked` each time it is asked for pods.
    fn activator(&self) -> Sidecar {
        let yaml = PLAIN.replace("worker: {socket: w.sock, command: [none], models: [toy], concurrency: 2}", "");
        let (pods, asked) = (self.path("pods"), self.path("asked"));
        let config = format!(
            "{yaml}\nactivator:\n  services:\n    - name: toys\n      namespace: m\n      hosts: [x, '*.toys.test']\n      \
             endpoint_slices: {{files: ['{}']}}\n      concurrency: {}\n      \
             scale: {{command: [sh, -c, 'echo $1 >> {}', x]}}\n{}\n",
            pods.display(),
            self.concurrency,
            asked.display(),
            self.more,
        );
        start(&config, vec![], Sleepy::default())
    }

    fn asked(&self) -> String {
        std::fs::read_to_string(self.path("asked")).unwrap_or_default()
    }
}

fn census(activator: &Sidecar) -> crate::activator::throttle::Census {
    let Answers::Pods(pods) = &activator.exchange.answers else { unreachable!() };
    pods.services[0].census()
}

fn held(activator: &Sidecar) -> admission::Snapshot {
    let Answers::Pods(pods) = &activator.exchange.answers else { unreachable!() };
    pods.services[0].admission.snapshot()
}

/// A sidecar with one place, as a pod.
fn pod(script: Vec<Line>) -> Sidecar {
    start(&PLAIN.replace("concurrency: 2", "concurrency: 1"), vec![script], Sleepy::default())
}

/// Says one word, and then nothing until its caller leaves.
fn hanging() -> Vec<Line> {
    let mut script = generated(&["begun"]);
    script.truncate(2);
    script.push(Line::Hang);
    script
}

#[test]
fn are_requests_held_until_the_first_pod_answers_and_again_when_the_last_has_gone() {
    let service = Service::new(0, "");
    let activator = Arc::new(service.activator());
    for round in 1..=2 {
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let activator = activator.clone();
                std::thread::spawn(move || activator.post("hi"))
            })
            .collect();
        wait_for(|| held(&activator).waiting == 50);
        wait_for(|| service.asked() == "1\n".repeat(round));
        let pod = foreign(Some(QUEUE));
        // Before anybody says that it is ready: its own word is enough.
        service.pods(Some(&[(pod.address, false)]));
        for caller in callers {
            let answer = caller.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("queue"), "{answer}");
        }
        assert!(pod.heard().to_ascii_lowercase().contains("k-network-probe: queue"));
        service.pods(None);
        wait_for(|| census(&activator).capacity == 0 && held(&activator).worker == "asleep");
    }
    assert_eq!(service.asked(), "1\n1\n", "one question for each time, however many waited");
    assert_eq!((held(&activator).running, census(&activator).in_flight), (0, 0));
}

/// knative/serving#13331: a request waits at one activator while a pod is idle that is the other's.
#[test]
fn does_no_request_wait_while_a_pod_is_idle_whoever_filled_the_other() {
    let service = Service::new(1, "");
    let pods = [pod(hanging()), pod(hanging())];
    service.pods(Some(&pods.each_ref().map(|pod| (pod.running.listen, true))));
    let activators = [service.activator(), service.activator()];
    let running = || pods.each_ref().map(|pod| pod.fake.open.load(SeqCst));
    let ask = |activator: &Sidecar| {
        let mut tcp = activator.connect();
        tcp.write_all(post("hi", "").as_bytes()).unwrap();
        tcp
    };
    for round in 0..4 {
        // Both orders: whichever pod the second activator tries first, it ends at the free one.
        let (one, other) = (&activators[round % 2], &activators[1 - round % 2]);
        let mut first = ask(one);
        read_until(&mut first, "begun");
        let mut second = ask(other);
        read_until(&mut second, "begun");
        assert_eq!(running(), [1, 1]);
        // Nobody has room: the third waits at its activator, and at no pod.
        let mut third = ask(other);
        wait_for(|| held(other).running + held(other).waiting == 2);
        assert_eq!(pods.each_ref().map(|pod| pod.exchange.admission.snapshot().waiting), [0, 0]);
        // The pod that the other activator's caller leaves is the third's.
        drop(first);
        read_until(&mut third, "begun");
        drop((second, third));
        wait_for(|| running() == [0, 0]);
        wait_for(|| activators.iter().all(|activator| held(activator).running == 0));
    }
    let refused = pods.iter().any(|pod| pod.admin("GET /metrics").contains("label=\"no_room\""));
    assert!(refused, "pods were asked for room by whoever did not know that they had none");
    for pod in &pods {
        assert_eq!(pod.exchange.admission.snapshot().waiting, 0);
    }
}

#[test]
fn does_a_pod_that_takes_no_connection_cost_nobody_an_answer() {
    let service = Service::new(10, "");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pod = foreign(Some(QUEUE));
    service.pods(Some(&[(closed, true), (pod.address, true)]));
    let activator = service.activator();
    for _ in 0..10 {
        let answer = activator.post("hi");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    wait_for(|| census(&activator).ready == 1);
    assert_eq!(held(&activator).running, 0);
}

#[test]
fn whose_is_a_request_and_what_are_pods_told() {
    let pod = foreign(Some(OK));
    let service = Service::new(0, "");
    service.pods(Some(&[(pod.address, true)]));
    let activator = service.activator();
    let ask = |host: &str, more: &str| {
        activator.call(&format!("GET /any HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n"))
    };
    for host in ["x", "X:80", "a.toys.test", "a.b.TOYS.test:8080"] {
        assert!(ask(host, "").starts_with("HTTP/1.1 200 OK"), "{host}");
        let heard = pod.heard().to_ascii_lowercase();
        assert!(heard.contains("x-outrider-no-queue: 1") && !heard.contains("k-proxy-request"), "{heard}");
    }
    let knative = "knative-serving-revision: toys\r\nknative-serving-namespace: m\r\n";
    for (host, more) in [("y", ""), ("toys.test", ""), ("y", knative)] {
        let answer = ask(host, more);
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no service here"), "{host}: {answer}");
    }
    let toy = activator.call("GET /toy/health HTTP/1.1\r\nhost: y\r\nconnection: close\r\n\r\n");
    assert!(toy.contains("text/plain"), "in the dialect's words: {toy}");
    assert!(pod.heard_nothing());
    // What cannot be sent twice does not ask to be turned away.
    let chunked = "POST /any HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(activator.call(chunked).starts_with("HTTP/1.1 200 OK"));
    assert!(!pod.heard().contains("no-queue"));
}

#[test]
fn what_do_knatives_headers_do_where_they_count() {
    let pod = foreign(Some(OK));
    let service = Service::new(0, "  knative: true");
    service.pods(Some(&[(pod.address, true)]));
    let activator = service.activator();
    let ask = |revision: &str| {
        let knative = format!("knative-serving-revision: {revision}\r\nknative-serving-namespace: m\r\n");
        activator.call(&format!("GET /any HTTP/1.1\r\nhost: y\r\nconnection: close\r\n{knative}\r\n"))
    };
    assert!(ask("toys").starts_with("HTTP/1.1 200 OK"));
    let heard = pod.heard().to_ascii_lowercase();
    assert!(heard.contains("k-proxy-request: activator") && !heard.contains("knative-serving"), "{heard}");
    assert!(ask("others").starts_with("HTTP/1.1 404"));
}

#[test]
fn is_a_start_that_fails_told_with_its_reason() {
    let service = Service::new(0, "");
    // Nothing can be written there.
    std::fs::create_dir(service.path("asked")).unwrap();
    let activator = service.activator();
    let answer = activator.post("hi");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("sh failed"), "{answer}");
    let late = Service::new(0, "      start_timeout: 50ms");
    let answer = late.activator().post("hi");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("no pod of toys answered"), "{answer}");
}

#[test]
fn does_a_caller_that_leaves_free_its_place_wherever_it_waits() {
    let service = Service::new(1, "");
    let activator = service.activator();
    let mut tcp = activator.connect();
    tcp.write_all(post("hi", "").as_bytes()).unwrap();
    wait_for(|| held(&activator).waiting == 1);
    drop(tcp);
    wait_for(|| held(&activator).waiting == 0);
    // And one that was turned away, and waits for a pod to have room again.
    let busy = pod(hanging());
    let mut other = busy.connect();
    other.write_all(post("hi", "").as_bytes()).unwrap();
    read_until(&mut other, "begun");
    service.pods(Some(&[(busy.running.listen, true)]));
    let mut tcp = activator.connect();
    tcp.write_all(post("hi", "").as_bytes()).unwrap();
    wait_for(|| busy.admin("GET /metrics").contains("label=\"no_room\""));
    assert_eq!(held(&activator).running, 1);
    drop(tcp);
    wait_for(|| held(&activator).running == 0 && census(&activator).in_flight == 0);
}

#[test]
fn does_its_autoscaler_ask_for_as_many_pods_as_the_callers_need() {
    let service = Service::new(1, "      autoscale: {max_scale: 7}");
    let activator = Arc::new(service.activator());
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let activator = activator.clone();
            std::thread::spawn(move || activator.post("hi"))
        })
        .collect();
    wait_for(|| held(&activator).waiting == 10);
    wait_for(|| service.asked().lines().any(|line| line == "7"));
    let pod = foreign(Some(QUEUE));
    service.pods(Some(&[(pod.address, true)]));
    for caller in callers {
        assert!(caller.join().unwrap().starts_with("HTTP/1.1 200 OK"));
    }
    let metrics = activator.exchange.journal.metrics.expose(&held(&activator));
    assert!(metrics.contains("outrider_autoscaler_pods_desired{service=\"toys\"} 7"), "{metrics}");
}
