//! V2 answers: about the server and its models, of tensors, of texts. Each is spelled by `wire` in the caller's way.

pub mod about;
pub mod infer;
pub mod texts;

use super::wire::{Form, Outcome, grpc, rest};
use crate::error::{Error, Verdict};
use crate::message::Part;

/// Spells an answer in the caller's form.
fn spell(outcome: Outcome<'_>, form: Form) -> Result<Vec<Part>, Error> {
    match form {
        Form::Rest { binary } => rest::outcome(outcome, binary),
        Form::Grpc { raw } => grpc::outcome(outcome, raw),
    }
}

fn refuse(form: Form, verdict: &Verdict) -> Vec<Part> {
    match form {
        Form::Rest { .. } => rest::refusal(verdict),
        Form::Grpc { .. } => grpc::refusal(verdict),
    }
}
