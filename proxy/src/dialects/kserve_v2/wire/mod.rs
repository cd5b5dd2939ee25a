//! The protocol's messages, free of transport: a [`Question`] in, an [`Outcome`] out; `rest` and `grpc` spell them.

pub mod grpc;
pub mod rest;
pub mod tensor;

use outrider_protos::worker::v1 as worker;
use serde_json::{Map, Value};

/// An inference request. Tensors are packed and their lengths checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub model: String,
    /// Empty: the server's choice.
    pub version: String,
    /// The caller's correlation id, echoed.
    pub id: String,
    pub parameters: Map<String, Value>,
    pub inputs: Vec<worker::Tensor>,
    pub outputs: Vec<Wanted>,
    pub form: Form,
}

/// An output asked for by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub name: String,
    /// As raw bytes behind the JSON; `None`: as the request says for all.
    pub binary: Option<bool>,
}

/// How the answer is to be spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Rest {
        /// Outputs go as raw bytes behind the JSON where nothing else is said of them.
        binary: bool,
    },
    Grpc {
        /// In `raw_output_contents`, as the request's inputs were.
        raw: bool,
    },
}

/// An inference answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<'a> {
    pub model: &'a str,
    pub id: &'a str,
    pub outputs: Vec<(worker::Tensor, Option<bool>)>,
    pub parameters: &'a [(&'static str, u64)],
}
