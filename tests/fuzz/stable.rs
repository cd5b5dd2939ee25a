//! The same targets without a fuzzer: over samples, what becomes of samples, and chance, drawn by a seed. So each of them
//! compiles, and what a stranger sends is tried in every run; `make fuzz` looks for longer where it can.
//!
//! FUZZ_CASES says how many inputs each target is given, FUZZ_SEED which ones. Without the target of the worker's crate.

// Each file says that it has no `main`, which is so when a fuzzer links it.
#![allow(unused_attributes)]

// What the targets are written with.
extern crate self as libfuzzer_sys;

#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:expr) => {
        pub fn run($data: &[u8]) {
            $body
        }
    };
}

#[path = "fuzz_targets/certificate.rs"]
mod certificate;
#[path = "fuzz_targets/check.rs"]
mod check;
#[path = "fuzz_targets/expression.rs"]
mod expression;
#[path = "fuzz_targets/jwt.rs"]
mod jwt;
#[path = "fuzz_targets/kserve_v2.rs"]
mod kserve_v2;
#[path = "fuzz_targets/openai.rs"]
mod openai;
#[path = "fuzz_targets/policy.rs"]
mod policy;
#[path = "fuzz_targets/rego.rs"]
mod rego;
#[path = "fuzz_targets/selector.rs"]
mod selector;
#[path = "fuzz_targets/template.rs"]
mod template;
#[path = "fuzz_targets/usage.rs"]
mod usage;
#[path = "fuzz_targets/xfcc.rs"]
mod xfcc;

// Written for the simulation, which draws more kinds of things.
#[allow(dead_code)]
#[path = "../simulation/chance.rs"]
mod chance;

use chance::Chance;
use std::panic::{AssertUnwindSafe, catch_unwind};

const CASES: u64 = 3000;
const BYTES_MAX: usize = 4096;

impl Chance {
    /// One of the samples, changed in a few places; rarely nothing but chance.
    fn input(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        if samples.is_empty() || self.below(8) == 0 {
            let length = self.below(64);
            return (0..length).map(|_| self.bits() as u8).collect();
        }
        let mut input = samples[self.below(samples.len())].clone();
        for _ in 0..self.below(6) {
            let (at, end) = (self.below(input.len() + 1), self.below(input.len() + 1));
            let (from, to) = (at.min(end), at.max(end).min(at.min(end) + 32));
            match self.below(6) {
                0 => drop(input.drain(from..to)),
                1 => input.insert(at, self.bits() as u8),
                2 => {
                    let signs = b"\"'\\{}[]()#.,:;|@*%\n\0 -+0/=&~!<>\xff";
                    input.insert(at, signs[self.below(signs.len())]);
                }
                3 if at < input.len() => input[at] ^= 1 << self.below(8),
                4 => {
                    let piece = input[from..to].to_vec();
                    input.splice(at..at, piece);
                }
                _ => {
                    let other = &samples[self.below(samples.len())];
                    let cut = self.below(other.len() + 1);
                    let piece = other[cut..other.len().min(cut + 48)].to_vec();
                    input.splice(at..at, piece);
                }
            }
        }
        input.truncate(BYTES_MAX);
        input
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Nothing panics; what does is shown, with the seed that led there.
fn harmless(name: &str, run: fn(&[u8]), samples: &[&[u8]]) {
    let samples: Vec<Vec<u8>> = samples.iter().map(|sample| sample.to_vec()).collect();
    samples.iter().for_each(|sample| run(sample));
    let (seed, cases) = (number("FUZZ_SEED", 1), number("FUZZ_CASES", CASES));
    for case in 0..cases {
        let mut draw = Chance::new(seed.wrapping_mul(1 << 32).wrapping_add(case));
        let input = draw.input(&samples);
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            panic!("{name}, FUZZ_SEED={seed}, case {case}: {:?}", String::from_utf8_lossy(&input));
        }
    }
}

#[test]
fn do_tokens_and_certificates_of_strangers_do_harm() {
    harmless(
        "jwt",
        jwt::run,
        &[
            br#"{"alg":"ES256","typ":"JWT"}.{"iss":"a","sub":"b","exp":1900000000,"aud":["c"]}.xxxxxxxxxxxxxxxx"#,
            b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
            br#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"1"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#,
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
        ],
    );
    harmless(
        "certificate",
        certificate::run,
        &[
            b"spiffe://td.test/ns/a/sa/b",
            b"-----BEGIN CERTIFICATE-----\nMIIBAA==\n-----END CERTIFICATE-----\n",
            b"-----BEGIN X509 CRL-----\nMIIBAA==\n-----END X509 CRL-----\n",
            b"\x30\x82\x01\x00\x30\x81\xa0\xa0\x03\x02\x01\x02\x02\x01\x01",
        ],
    );
    harmless(
        "xfcc",
        xfcc::run,
        &[
            b"By=spiffe://a/b;Hash=00ff;Subject=\"CN=a,O=\\\"b\\\"\";URI=spiffe://c/d;DNS=x;DNS=y,Hash=11",
            b"Cert=\"-----BEGIN%20CERTIFICATE-----%0A\";Chain=\"%\"",
        ],
    );
}

#[test]
fn do_questions_and_answers_of_strangers_do_harm() {
    harmless("check", check::run, &[CHECK, b"\x0a\x06\x22\x04\x12\x02\x22\x00"]);
    harmless(
        "openai",
        openai::run,
        &[
            br#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"stream":true,"n":1}"#,
            br#"{"model":"m","prompt":["a","b"],"max_tokens":3,"stop":["x"],"logprobs":2,"seed":7,"temperature":0.5}"#,
            br#"{"model":"m","input":[[1,2],[3]],"encoding_format":"base64","dimensions":3}"#,
        ],
    );
    harmless(
        "kserve_v2",
        kserve_v2::run,
        &[
            br#"{"id":"1","inputs":[{"name":"t","shape":[1,2],"datatype":"BYTES","data":["a","b"]}],"outputs":[{"name":"o"}]}"#,
            b"\0\0\0\0\x05\x0a\x03toy",
            b"\x0a\x03toy\x2a\x10\x0a\x01t\x12\x05BYTES\x1a\x02\x01\x01\x3a\x05\x01\0\0\0a",
        ],
    );
    harmless(
        "usage",
        usage::run,
        &[
            b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"usage\":{\"prompt_tokens\":3}}\n\ndata: [DONE]\n\n",
            br#"{"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":7,"total_tokens":37}}"#,
        ],
    );
}

/// attributes.request.http with an id, a method, headers, a path and a host.
const CHECK: &[u8] = b"\x0a\x38\x22\x36\x12\x34\x0a\x02id\x12\x03GET\x1a\x0d\x0a\x06x-role\x12\x03adm\x22\x06/a?b=c\
                       \x2a\x06x.test\x32\x04http\x52\x02h2";

#[test]
fn do_the_words_of_rules_do_harm() {
    const DOCUMENT: &str =
        "\n{\"auth\":{\"identity\":{\"sub\":\"a\",\"roles\":[\"x\",{\"y\":1.5}]}},\"request\":{\"path\":\"/a/b\"}}";
    let with_document = |sources: &[&str]| -> Vec<Vec<u8>> {
        sources.iter().map(|source| format!("{source}{DOCUMENT}").into_bytes()).collect()
    };
    let selectors = with_document(&[
        "auth.identity.roles.#(y>1)#.y",
        "auth.identity.sub.@case:upper|@base64:encode",
        "request.path.@extract:{\"sep\":\"/\",\"pos\":1}",
        "{auth.identity.sub,request.path}.@tostr|@fromstr",
        "^/(a|b)[[:alpha:]]*\\z(?i)x{1,3}",
    ]);
    let templates =
        with_document(&["Hello {auth.identity.sub}!", "\\{x\\} {request.path.@replace:{\"old\":\"a\",\"new\":\"b\"}}"]);
    let expressions = with_document(&[
        "auth.identity.roles.exists(r, r == 'x') && request.path.startsWith('/a')",
        "has(auth.identity.sub) ? size(auth.identity.sub) > 0 : [1, 2].map(i, i * 2)[0] == 2",
        "request.path.split('/')[1].matches('^a$') || {'a': 1}.a == 1u",
    ]);
    let slices = |samples: &[Vec<u8>], run: fn(&[u8]), name: &str| {
        harmless(name, run, &samples.iter().map(Vec::as_slice).collect::<Vec<_>>());
    };
    slices(&selectors, selector::run, "selector");
    slices(&templates, template::run, "template");
    slices(&expressions, expression::run, "expression");
    harmless(
        "rego",
        rego::run,
        &[
            b"allow { input.a == 1; x := input.b[_]; x > 1 }\nname = n { n := sprintf(\"%s\", [input.c]) }",
            b"import rego.v1\nallow if { some x in input.b; x == \"y\" }\nbad := input.l[_].n != 3",
            b"default allow = false\nallow { not deny }\ndeny[msg] { msg := concat(\",\", input.l) }",
        ],
    );
    harmless(
        "policy",
        policy::run,
        &[
            b"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: DENY, rules: \
              [{from: [{source: {principals: ['*/sa/b'], notIpBlocks: ['10.0.0.0/8']}}], to: [{operation: {paths: ['/a/{*}']}}], \
              when: [{key: 'request.headers[x-word]', values: ['a*']}]}]}\n--- x /a/b",
            b"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: d}\nspec: {mtls: {mode: STRICT}, \
              selector: {matchLabels: {app: model}}, portLevelMtls: {8080: {mode: DISABLE}}}",
            b"apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r}\nspec: {jwtRules: [{issuer: a, \
              jwks: '{\"keys\":[]}', fromHeaders: [{name: x, prefix: 'y '}], outputClaimToHeaders: [{header: h, claim: a.b}]}]}",
        ],
    );
}
