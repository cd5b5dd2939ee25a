//! `outrider drain`: tells the sidecar of this pod, through its admin port, to take nobody new.
//!
//! For `preStop` hooks: a kubelet's `httpGet` can only GET, comes from outside the pod, and a sidecar's image has no
//! curl. Never ends the sidecar: SIGTERM does, when the app has ended.

use crate::config::quantity::Quantity;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's admin port
    #[arg(long, default_value = "127.0.0.1:15020")]
    admin: SocketAddr,
    /// Wait first, while endpoints elsewhere forget this pod and callers still come: 5s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    after: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    Quantity::Text(text.into()).duration()
}

/// For each step of the little conversation.
const TIMEOUT: Duration = Duration::from_secs(5);

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    if let Some(after) = args.after {
        std::thread::sleep(after);
    }
    let answer = ask(args.admin).map_err(|error| format!("the sidecar's admin port {}: {error}", args.admin))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            print!("{body}");
            Ok(())
        }
        _ => Err(format!("the admin port {} did not drain: {answer}", args.admin).into()),
    }
}

fn ask(admin: SocketAddr) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    write!(tcp, "POST /drain HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn drained_by(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tcp.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            assert!(head.starts_with(b"POST /drain HTTP/1.1\r\n"));
            tcp.write_all(answer.as_bytes()).unwrap();
        });
        let outcome = run(Args { admin, after: None }).map_err(|error| error.to_string());
        server.join().unwrap();
        outcome
    }

    #[test]
    fn is_only_a_drained_sidecar_success() {
        assert_eq!(drained_by("HTTP/1.1 200 OK\r\n\r\n{}"), Ok(()));
        assert!(drained_by("HTTP/1.1 403 Forbidden\r\n\r\nno").unwrap_err().contains("403"));
        assert!(drained_by("").is_err());
    }
}
