//! The same AuthConfigs and the same questions to Authorino and to us; each difference is printed with what led to it.
//!
//! `outrider-oracle ORACLE [--seed N] [--cases N]`: ORACLE is the binary of tests/oracle. Ends with 1 if the two differ in
//! whether somebody passes, or in what is told, beyond the differences that are meant.

use outrider_protos::ext_authz::v3::authorization_client::AuthorizationClient;
use outrider_protos::ext_authz::v3::check_response::HttpResponse;
use outrider_protos::ext_authz::v3::{CheckRequest, CheckResponse, HeaderValueOption};
use outrider_tests::authconfigs::{Case, Draw, case};
use outrider_tests::authorizer::Authorizer;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use tonic::transport::{Channel, Endpoint};

const CONFIG: &str =
    "auth: {authconfig: {folder: policies, secrets: secrets, namespace: default, compat: authorino}}\n";

/// Authorino, by a pipe and a port.
struct Oracle {
    child: Child,
    pipe: ChildStdin,
    words: BufReader<ChildStdout>,
    client: AuthorizationClient<Channel>,
}

impl Oracle {
    async fn start(binary: &str) -> Oracle {
        let mut child = Command::new(binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{binary}: {error}; `make oracle` builds it"));
        let pipe = child.stdin.take().expect("stdin is piped");
        let mut words = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let said = read(&mut words);
        let client = client(said["grpc"].as_str().expect("it says where it listens")).await;
        Oracle { child, pipe, words, client }
    }

    /// Its problems with these.
    fn load(&mut self, case: &Case) -> Value {
        let line = json!({"authconfigs": case.authconfigs, "secrets": case.secrets});
        writeln!(self.pipe, "{line}").expect("the oracle reads");
        read(&mut self.words)["problems"].take()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(words: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    words.read_line(&mut line).expect("the oracle speaks");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("the oracle said `{line}`: {error}"))
}

async fn client(address: &str) -> AuthorizationClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    AuthorizationClient::new(endpoint.connect().await.expect("somebody listens"))
}

/// An answer as far as it is compared.
#[derive(Debug, PartialEq)]
struct Told {
    code: i32,
    status: i32,
    headers: BTreeMap<String, Vec<String>>,
    body: String,
    metadata: String,
}

impl Told {
    fn of(response: CheckResponse) -> Told {
        let code = response.status.map_or(0, |status| status.code);
        let metadata = response.dynamic_metadata.filter(|metadata| !metadata.fields.is_empty());
        let metadata = metadata.map(|metadata| sorted(&metadata)).unwrap_or_default();
        let (status, headers, body) = match response.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => {
                (denied.status.map_or(0, |status| status.code), denied.headers, denied.body)
            }
            Some(HttpResponse::OkResponse(ok)) => (200, ok.headers, String::new()),
            None => (0, Vec::new(), String::new()),
        };
        Told { code, status, headers: by_name(headers), body, metadata }
    }

    /// The words of refusals are our own where the policy has none.
    fn without_words(mut self) -> Told {
        self.headers.remove("x-ext-auth-reason");
        self
    }
}

fn by_name(headers: Vec<HeaderValueOption>) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.into_iter().filter_map(|option| option.header) {
        map.entry(header.key.to_ascii_lowercase()).or_default().push(header.value);
    }
    map.values_mut().for_each(|values| values.sort());
    map
}

/// Text with the fields in order: maps of the wire have none.
fn sorted(object: &outrider_protos::ext_authz::v3::Struct) -> String {
    use outrider_protos::ext_authz::v3::{Value, value::Kind};
    fn one(value: &Value) -> String {
        match &value.kind {
            Some(Kind::StructValue(object)) => sorted(object),
            Some(Kind::ListValue(list)) => format!("{:?}", list.values.iter().map(one).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        }
    }
    let fields: BTreeMap<_, _> = object.fields.iter().map(|(name, value)| (name, one(value))).collect();
    format!("{fields:?}")
}

#[derive(Default)]
struct Tally {
    checks: usize,
    allowed: usize,
    /// AuthConfigs that one of the two does not take.
    not_taken: usize,
    differ: usize,
    words: usize,
}

async fn compare(oracle: &mut Oracle, case: &Case, seed: u64, tally: &mut Tally) {
    let problems = oracle.load(case);
    let mut files: Vec<(String, String)> = Vec::new();
    for (folder, documents) in [("policies", &case.authconfigs), ("secrets", &case.secrets)] {
        for (at, document) in documents.iter().enumerate() {
            files.push((format!("{folder}/{at}.yaml"), document.to_string()));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let ours = match Authorizer::try_start(CONFIG, &files) {
        Ok(ours) => ours,
        Err(words) => {
            tally.not_taken += 1;
            if problems == json!([]) {
                println!("seed {seed}: we do not take what Authorino takes:\n{words}");
                tally.differ += 1;
            }
            return;
        }
    };
    if problems != json!([]) {
        println!("seed {seed}: we take what Authorino does not take: {problems}");
        tally.not_taken += 1;
        return;
    }
    let mut us = client(&ours.address("grpc")).await;
    for check in &case.checks {
        tally.checks += 1;
        let theirs = oracle.client.check(check.clone()).await.expect("the oracle answers").into_inner();
        let mine = us.check(check.clone()).await.expect("we answer").into_inner();
        let (theirs, mine) = (Told::of(theirs), Told::of(mine));
        tally.allowed += usize::from(theirs.code == 0);
        if theirs != mine {
            tally.words += 1;
            let (theirs, mine) = (theirs.without_words(), mine.without_words());
            if theirs != mine {
                tally.differ += 1;
                show(seed, case, check, &theirs, &mine);
            }
        }
    }
}

fn show(seed: u64, case: &Case, check: &CheckRequest, theirs: &Told, mine: &Told) {
    let http = check.attributes.as_ref().and_then(|it| it.request.as_ref()?.http.as_ref()).expect("drawn with one");
    println!("== seed {seed}: {} {}{} {:?}", http.method, http.host, http.path, http.headers);
    for authconfig in &case.authconfigs {
        println!("{}", authconfig["spec"]);
    }
    println!("Authorino: {theirs:?}\nours:      {mine:?}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: u64| {
        let at = words.iter().position(|word| word == name);
        at.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let Some(binary) = words.first() else {
        eprintln!("outrider-oracle ORACLE [--seed N] [--cases N]");
        return ExitCode::FAILURE;
    };
    let (seed, cases) = (option("--seed", 1), option("--cases", 200));
    let mut oracle = Oracle::start(binary).await;
    let mut tally = Tally::default();
    for seed in seed..seed + cases {
        compare(&mut oracle, &case(&mut Draw::new(seed)), seed, &mut tally).await;
    }
    println!(
        "{cases} sets of AuthConfigs ({} not taken by both), {} checks ({} allowed): {} differ, {} more in the words of a refusal only",
        tally.not_taken,
        tally.checks,
        tally.allowed,
        tally.differ,
        tally.words - tally.differ.min(tally.words)
    );
    if tally.differ == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
