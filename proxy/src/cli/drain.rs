//! `outrider drain`: tells the sidecar of this pod, through its admin port, to take nobody new.
//!
//! For `preStop` hooks: a kubelet's `httpGet` can only GET, comes from outside the pod, and a sidecar's image has no
//! curl. Never ends the sidecar: SIGTERM does, when the app has ended. With `--wait` the sidecar decides by itself when
//! nobody is to be expected any more, and the hook returns when the last caller is gone.

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
    /// Serve whoever still comes until nobody does, then wait until the last caller is gone, at most so long: 20s
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "after")]
    wait: Option<Duration>,
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
    let (path, patience) = args.wait.map_or(("/drain", TIMEOUT), |wait| ("/drain/wait", wait));
    let answer = match ask(args.admin, path, patience) {
        // The sidecar goes on without us; what is left is cut after SIGTERM, with an error its callers can see.
        Err(error) if args.wait.is_some() && is_late(&error) => {
            println!("callers are still there after {} s", patience.as_secs_f64());
            return Ok(());
        }
        answer => answer.map_err(|error| format!("the sidecar's admin port {}: {error}", args.admin))?,
    };
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            print!("{body}");
            Ok(())
        }
        _ => Err(format!("the admin port {} did not drain: {answer}", args.admin).into()),
    }
}

fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn ask(admin: SocketAddr, path: &str, patience: Duration) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect_timeout(&admin, TIMEOUT)?;
    tcp.set_read_timeout(Some(patience))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    write!(tcp, "POST {path} HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn drained_by(answer: &'static str, wait: Option<Duration>) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let path = if wait.is_some() { "/drain/wait" } else { "/drain" };
        let server = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                tcp.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            assert!(head.starts_with(format!("POST {path} HTTP/1.1\r\n").as_bytes()));
            if answer == "never" {
                let _ = tcp.read(&mut [0]);
            } else {
                tcp.write_all(answer.as_bytes()).unwrap();
            }
        });
        let outcome = run(Args { admin, after: None, wait }).map_err(|error| error.to_string());
        server.join().unwrap();
        outcome
    }

    #[test]
    fn is_only_a_drained_sidecar_success() {
        assert_eq!(drained_by("HTTP/1.1 200 OK\r\n\r\n{}", None), Ok(()));
        assert!(drained_by("HTTP/1.1 403 Forbidden\r\n\r\nno", None).unwrap_err().contains("403"));
        assert!(drained_by("", None).is_err());
    }

    #[test]
    fn does_a_hook_that_waits_end_in_time() {
        let soon = Some(Duration::from_millis(50));
        assert_eq!(drained_by("HTTP/1.1 200 OK\r\n\r\ndrained\n", Some(TIMEOUT)), Ok(()));
        assert_eq!(drained_by("never", soon), Ok(()), "whoever is late must not hold the pod");
        assert!(drained_by("HTTP/1.1 503 X\r\n\r\n", Some(TIMEOUT)).is_err());
    }
}
