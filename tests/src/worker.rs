//! `outrider-worker`, started alone and spoken to over its socket, for what only the worker itself can show.

use crate::places::binary;
use crate::up::{PATIENCE, wait_until};
use outrider_protos::worker::v1::worker_client::WorkerClient;
use outrider_protos::worker::v1::{GenerateEvent, GenerateRequest, ReadyRequest, generate_event};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A running worker. Dropping it ends the process.
pub struct WorkerProcess {
    child: Child,
    folder: tempfile::TempDir,
}

impl WorkerProcess {
    /// Starts a worker with these models on this device; returns when its socket is there.
    pub fn start(device: &str, models: &[(&str, &Path)]) -> WorkerProcess {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = format!("socket: worker.sock\ndevice: \"{device}\"\nmodels:\n");
        for (name, path) in models {
            config += &format!("  - {{name: {name}, path: \"{}\"}}\n", path.display());
        }
        std::fs::write(folder.path().join("worker.yaml"), config).expect("a configuration file");
        let child = Command::new(binary("outrider-worker"))
            .arg("--config")
            .arg(folder.path().join("worker.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("stderr.log")).expect("a log file"))
            .spawn()
            .expect("outrider-worker can be run");
        let mut worker = WorkerProcess { child, folder };
        let socket = worker.socket();
        wait_until("the worker's socket", || {
            let ended = worker.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the worker ended: {}", worker.log());
            socket.exists().then_some(())
        });
        worker
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("worker.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr.log")).unwrap_or_default()
    }

    /// A client of it, once its models are loaded.
    pub async fn client(&self) -> WorkerClient<Channel> {
        let mut client = connect(&self.socket()).await;
        let ready = async {
            while !client.ready(ReadyRequest {}).await.expect("Ready is always answered").into_inner().ready {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("the models load in time");
        client
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the worker ---\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `worker.v1` client over a Unix socket.
pub async fn connect(socket: &Path) -> WorkerClient<Channel> {
    let socket = socket.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://worker").connect_with_connector(connector).await;
    WorkerClient::new(channel.expect("the worker takes a connection")).max_decoding_message_size(64 << 20)
}

/// Everything a Generate stream said.
pub async fn generate(client: &mut WorkerClient<Channel>, request: GenerateRequest) -> Vec<generate_event::Event> {
    let mut stream = client.generate(request).await.expect("the worker takes the request").into_inner();
    let mut events = Vec::new();
    while let Some(GenerateEvent { event }) = stream.message().await.expect("no error in the stream") {
        events.push(event.expect("an event says something"));
    }
    events
}
