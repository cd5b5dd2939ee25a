//! Servers that are kept, slow, huge, or gone; whose TLS is believed is asked where keys are fetched.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_secs(20);

/// Answers every request with `answer`; each body begins with the number of the connection.
async fn serve(answer: &'static str) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        for connection in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                    let answer = answer.replace('N', &connection.to_string());
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn get(address: &str) -> Request<Bytes> {
    Request::get(address).body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn is_a_connection_kept() {
    let (address, _server) = serve("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nN").await;
    let client = Client::new(Trust::default());
    for _ in 0..3 {
        let answer = client.send(get(&address), SOON, 10).await.unwrap();
        assert_eq!(answer.body(), "0");
    }
}

#[tokio::test]
async fn what_ends_a_question_that_would_not_end() {
    let client = Client::new(Trust::default());
    let (address, _server) = serve("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello hello").await;
    assert_eq!(client.send(get(&address), SOON, 10).await.err(), Some(FetchError::TooLarge(10)));
    let (address, _server) = serve("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello").await;
    let short = Duration::from_millis(50);
    assert_eq!(client.send(get(&address), short, 100).await.err(), Some(FetchError::Timeout(short)));
    let (address, server) = serve("").await;
    drop(server);
    let gone = client.send(get(&address), SOON, 100).await.unwrap_err();
    assert!(matches!(gone, FetchError::Connect(_) | FetchError::Http(_)), "{gone}");
}

#[tokio::test]
async fn which_addresses_are_none() {
    let client = Client::new(Trust::default());
    for address in ["/relative", "ftp://host/", "http://user:secret@127.0.0.1:1/"] {
        let error = client.send(get(address), SOON, 100).await.unwrap_err();
        assert!(matches!(error, FetchError::Address(_)) && !error.to_string().contains("secret"), "{error}");
    }
}
