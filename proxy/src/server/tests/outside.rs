//! The admin window as seen from another machine, and the probes it passes on.

use super::*;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

/// An address of this machine that is not the loopback, if it has one. No packet is sent: 192.0.2.0/24 is for
/// documentation.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Answers one connection.
fn app(answer: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let head = read_until(&mut tcp, "\r\n\r\n");
        tcp.write_all(answer.as_bytes()).unwrap();
        head
    });
    (port, thread)
}

fn ask(ip: IpAddr, port: u16, line: &str) -> String {
    let mut tcp = TcpStream::connect((ip, port)).unwrap();
    write!(tcp, "{line} HTTP/1.1\r\nhost: x\r\nuser-agent: kube-probe/1.33\r\n\r\n").unwrap();
    read_all(&mut tcp)
}

#[test]
fn what_is_answered_to_other_machines() {
    let (port, app) = app("HTTP/1.1 418 Odd\r\ncontent-length: 3\r\n\r\nyes");
    let probes = format!(
        "probes: {{address: 127.0.0.1, apps: [{{container: app, probe: livez, http: {{port: {port}, path: '/h?x=1'}}}}]}}"
    );
    let yaml = PLAIN.replace("admin: 127.0.0.1:0", "admin: 0.0.0.0:0") + &probes;
    let sidecar = start(&yaml, vec![], Sleepy::default());
    let admin = sidecar.running.admin.port();
    let near = IpAddr::from(Ipv4Addr::LOCALHOST);
    assert!(ask(near, admin, "GET /config_dump").starts_with("HTTP/1.1 200 "));
    let Some(far) = own_address() else {
        eprintln!("SKIPPED: this machine has no address but the loopback");
        return;
    };
    for path in ["/", "/config_dump", "/healthz", "/drain", "/nothing"] {
        assert!(ask(far, admin, &format!("GET {path}")).starts_with("HTTP/1.1 403 "), "{path}");
    }
    assert!(ask(far, admin, "POST /drain").starts_with("HTTP/1.1 403 "));
    for path in ["/healthz/live", "/healthz/ready", "/metrics"] {
        assert!(ask(far, admin, &format!("GET {path}")).starts_with("HTTP/1.1 200 "), "{path}");
    }
    assert!(ask(far, admin, "GET /app-health/app/readyz").starts_with("HTTP/1.1 404 "));
    let answer = ask(far, admin, "GET /app-health/app/livez");
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.ends_with("\r\n\r\nyes"), "{answer}");
    let asked = app.join().unwrap();
    assert!(asked.starts_with("GET /h?x=1 HTTP/1.1\r\n") && asked.contains("user-agent: kube-probe/1.33"), "{asked}");
    assert!(
        asked.contains(&format!("host: {far}:{port}\r\n")),
        "the host is what the kubelet would have dialled: {asked}"
    );
}
