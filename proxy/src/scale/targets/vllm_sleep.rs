//! A foreign vLLM that sleeps and wakes without ending: its sleep mode, over its development endpoints.
//!
//! vLLM must run with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`; who can reach those endpoints can also do worse, so
//! only this sidecar should. Level 1 keeps the weights in the host's memory, level 2 drops them and reads them again. Never
//! starts or ends the process: whoever runs it does.

use super::{Target, within};
use crate::fetch::{Client, Trust};
use crate::scale::progress::{Progress, Stage, Told};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, header};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Of a small question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Its metrics are the longest of what we read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Weights of any size leave a device in less.
const SLEEP_TIMEOUT: Duration = Duration::from_secs(60);
/// What others have it compute may end first: sleeping aborts it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const ADVICE: &str = "start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1";

/// How deep it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Weights stay in the host's memory.
    Weights,
    /// Nothing stays; weights are read again.
    Nothing,
}

pub struct VllmSleep {
    address: SocketAddr,
    level: Level,
    start_timeout: Duration,
    client: Client,
    told: Told,
}

impl VllmSleep {
    pub fn new(address: SocketAddr, level: Level, start_timeout: Duration) -> Self {
        VllmSleep { address, level, start_timeout, client: Client::new(Trust::default()), told: Told::default() }
    }

    /// Status and body; the error is in words.
    async fn ask(&self, method: Method, path: &str, body: &str, limit: Duration) -> Result<(u16, Bytes), String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .map_err(|error| error.to_string())?;
        let answer = self.client.send(request, limit, ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
        Ok((answer.status().as_u16(), answer.into_body()))
    }

    async fn get(&self, path: &str) -> Result<(u16, Bytes), String> {
        self.ask(Method::GET, path, "", ANSWER_TIMEOUT).await
    }

    /// Asks for something to be done.
    async fn order(&self, path: &str, body: &str, limit: Duration) -> Result<(), String> {
        match self.ask(Method::POST, path, body, limit).await? {
            (200..=299, _) => Ok(()),
            (404, _) => Err(format!("it has no {path}; {ADVICE}")),
            (status, body) => {
                let words: String = String::from_utf8_lossy(&body).chars().take(256).collect();
                Err(format!("{path} answered {status}: {words}"))
            }
        }
    }

    /// Waits until it answers; tells whether it sleeps.
    async fn sleeps(&self) -> Result<bool, String> {
        loop {
            match self.get("/is_sleeping").await {
                Ok((200, body)) => {
                    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                    return answer["is_sleeping"]
                        .as_bool()
                        .ok_or_else(|| "/is_sleeping says neither yes nor no".into());
                }
                // It cannot sleep, so it does not: its callers shall not suffer for that.
                Ok((404, _)) => {
                    tracing::warn!(address = %self.address, "it has no sleep mode; {ADVICE}");
                    return Ok(false);
                }
                Ok(_) | Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn awake(&self) -> Result<(), String> {
        let sleeps = self.sleeps().await?;
        if sleeps {
            self.told.say(Progress::of(Stage::Loading), Instant::now());
            match self.level {
                Level::Weights => self.order("/wake_up", "", self.start_timeout).await?,
                Level::Nothing => {
                    // As its documentation has it: room for the weights, the weights, and only then room for the rest.
                    self.order("/wake_up?tags=weights", "", self.start_timeout).await?;
                    let reload = r#"{"method": "reload_weights"}"#;
                    self.order("/collective_rpc", reload, self.start_timeout).await?;
                    self.order("/wake_up?tags=kv_cache", "", self.start_timeout).await?;
                }
            }
        }
        self.told.say(Progress::of(Stage::Warming), Instant::now());
        while !matches!(self.get("/health").await, Ok((200, _))) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits, for a while, for what others than us may have asked it.
    async fn drained(&self) {
        let quiet = async {
            while let Ok((200, body)) = self.get("/metrics").await {
                if busy(&String::from_utf8_lossy(&body)) == 0.0 {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, quiet).await.is_err() {
            tracing::warn!("others than this sidecar keep it busy; what they asked is aborted");
        }
    }
}

/// Requests it has, by its own metrics; nothing where it does not say.
fn busy(metrics: &str) -> f64 {
    let counted = metrics.lines().filter(|line| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        matches!(name, "vllm:num_requests_running" | "vllm:num_requests_waiting")
    });
    counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[async_trait]
impl Target for VllmSleep {
    async fn start(&self) -> Result<(), String> {
        let awake = within(&self.told, self.start_timeout, self.awake()).await;
        awake.unwrap_or_else(|| Err(format!("vLLM was not awake within {} s", self.start_timeout.as_secs())))
    }

    async fn stop(&self) {
        self.drained().await;
        let path = match self.level {
            Level::Weights => "/sleep?level=1",
            Level::Nothing => "/sleep?level=2",
        };
        if let Err(why) = self.order(path, "", SLEEP_TIMEOUT).await {
            tracing::error!(why, "vLLM does not sleep; its memory stays taken");
        }
    }

    /// It is not ours: who comes after us finds it as it is.
    async fn leave(&self) {}

    fn told(&self) -> Option<&Told> {
        Some(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Not vLLM: its sleep endpoints as its documentation describes them, and what was asked of them.
    #[derive(Default)]
    struct Fake {
        asked: Mutex<Vec<String>>,
        sleeping: Mutex<bool>,
        /// Requests of others, one less each time it is asked.
        others: Mutex<usize>,
        without_sleep_mode: bool,
    }

    impl Fake {
        fn answer(&self, line: &str) -> (u16, String) {
            let path = line.split(' ').nth(1).unwrap();
            let sleep_mode = ["/sleep", "/wake_up", "/is_sleeping", "/collective_rpc"];
            if self.without_sleep_mode && sleep_mode.iter().any(|known| path.starts_with(known)) {
                return (404, r#"{"detail":"Not Found"}"#.into());
            }
            match path {
                "/is_sleeping" => (200, format!(r#"{{"is_sleeping":{}}}"#, self.sleeping.lock().unwrap())),
                "/health" => (200, String::new()),
                "/metrics" => {
                    let mut others = self.others.lock().unwrap();
                    let now = *others;
                    *others = now.saturating_sub(1);
                    (
                        200,
                        format!(
                            "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{model_name=\"m\"}} {now}.0\n"
                        ),
                    )
                }
                path => {
                    self.asked.lock().unwrap().push(path.into());
                    *self.sleeping.lock().unwrap() = path.starts_with("/sleep");
                    (200, String::new())
                }
            }
        }

        async fn start(self) -> (Arc<Fake>, SocketAddr) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (fake, address) = (Arc::new(self), listener.local_addr().unwrap());
            let serving = fake.clone();
            tokio::spawn(async move {
                while let Ok((mut tcp, _)) = listener.accept().await {
                    let mut bytes = vec![0; 4096];
                    let count = tcp.read(&mut bytes).await.unwrap_or(0);
                    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    let (status, body) = serving.answer(text.lines().next().unwrap_or_default());
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                    let _ = tcp.write_all(answer.as_bytes()).await;
                }
            });
            (fake, address)
        }
    }

    async fn life(level: Level) -> Vec<String> {
        let (fake, address) = Fake { others: Mutex::new(2), ..Fake::default() }.start().await;
        let vllm = VllmSleep::new(address, level, Duration::from_secs(5));
        vllm.start().await.unwrap();
        vllm.stop().await;
        assert_eq!(*fake.others.lock().unwrap(), 0, "it waits for what others asked");
        vllm.start().await.unwrap();
        vllm.leave().await;
        fake.asked.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn what_is_asked_of_it_when_it_sleeps_and_wakes() {
        assert_eq!(life(Level::Weights).await, ["/sleep?level=1", "/wake_up"]);
        let deep = ["/sleep?level=2", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"];
        assert_eq!(life(Level::Nothing).await, deep);
    }

    #[tokio::test]
    async fn is_one_without_sleep_mode_served_all_the_same() {
        let (_, address) = Fake { without_sleep_mode: true, ..Fake::default() }.start().await;
        let vllm = VllmSleep::new(address, Level::Weights, Duration::from_secs(5));
        vllm.start().await.unwrap();
        vllm.stop().await;
        let refused = vllm.order("/sleep?level=1", "", Duration::from_secs(1)).await.unwrap_err();
        assert!(refused.contains("VLLM_SERVER_DEV_MODE"), "{refused}");
    }

    #[tokio::test]
    async fn is_one_that_is_not_there_told_of() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let vllm = VllmSleep::new(nobody, Level::Weights, Duration::from_millis(200));
        assert!(vllm.start().await.unwrap_err().contains("not awake within 0 s"));
    }

    #[test]
    fn how_busy_do_its_metrics_say_it_is() {
        let text = "vllm:num_requests_running{engine=\"0\"} 2.0\nvllm:num_requests_waiting{engine=\"0\"} 1\n\
                    vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 9.0\nother 5\n";
        assert_eq!(busy(text), 3.0);
        assert_eq!(busy("garbage\n\u{0}"), 0.0);
    }
}
