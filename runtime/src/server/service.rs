//! The eight methods of worker.v1, each a few lines: enter, find the model, hand over.

use std::sync::Arc;

use outrider_protos::worker::v1 as wire;
use tonic::{Request, Response, Status};
use wire::worker_server::Worker;

use super::catalog::{Catalog, Served};
use super::generate::EventStream;
use super::lifecycle::{Guard, Lifecycle};
use super::{MESSAGE_BYTES_MAX, embed, generate, infer, prompt, status};
use crate::config::Limits;
use crate::tokenizer::Vocabulary;

/// What tonic calls.
pub struct Service {
    lifecycle: Arc<Lifecycle>,
    limits: Limits,
}

/// Bytes of an answer's tensors; the rest of a message is names and shapes.
pub const OUTPUT_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);

impl Service {
    pub fn new(lifecycle: Arc<Lifecycle>, limits: Limits) -> Self {
        Service { lifecycle, limits }
    }

    fn enter(&self, model: &str) -> Result<(Guard, Arc<Served>), Status> {
        let (guard, catalog) = self.lifecycle.enter()?;
        Ok((guard, catalog.find(model)?))
    }
}

#[tonic::async_trait]
impl Worker for Service {
    type GenerateStream = EventStream;

    async fn generate(&self, request: Request<wire::GenerateRequest>) -> Result<Response<EventStream>, Status> {
        let request = request.into_inner();
        let (guard, served) = self.enter(&request.model)?;
        generate::generate(request, served, guard, self.limits.prompt_bytes_max).await.map(Response::new)
    }

    async fn embed(&self, request: Request<wire::EmbedRequest>) -> Result<Response<wire::EmbedResponse>, Status> {
        let request = request.into_inner();
        let (_guard, served) = self.enter(&request.model)?;
        embed::embed(request, served, self.limits).await.map(Response::new)
    }

    async fn infer(&self, request: Request<wire::InferRequest>) -> Result<Response<wire::InferResponse>, Status> {
        let request = request.into_inner();
        let (_guard, served) = self.enter(&request.model)?;
        infer::infer(request, served, OUTPUT_BYTES_MAX).await.map(Response::new)
    }

    async fn tokenize(
        &self,
        request: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        let request = request.into_inner();
        let (_guard, served) = self.enter(&request.model)?;
        let bytes_max = self.limits.prompt_bytes_max;
        let response = status::blocking(move || {
            use wire::tokenize_request::Input;
            let ids = match request.input {
                None => return Err(Status::invalid_argument("input: is absent; give text or chat")),
                Some(Input::Text(text)) => prompt::text_ids(&served, &text, request.add_special_tokens, bytes_max)?,
                Some(Input::Chat(chat)) => prompt::chat_ids(&served, chat, bytes_max)?,
            };
            let tokenizer = served.tokenizer()?;
            let tokens = ids.iter().map(|id| tokenizer.token_bytes(*id).to_vec().into()).collect();
            Ok(wire::TokenizeResponse { ids, tokens })
        });
        response.await.map(Response::new)
    }

    async fn detokenize(
        &self,
        request: Request<wire::DetokenizeRequest>,
    ) -> Result<Response<wire::DetokenizeResponse>, Status> {
        let request = request.into_inner();
        let (_guard, served) = self.enter(&request.model)?;
        let text = status::blocking(move || {
            served.tokenizer()?.decode(&request.ids, request.skip_special_tokens).map_err(status::tokenizer)
        });
        Ok(Response::new(wire::DetokenizeResponse { text: text.await? }))
    }

    async fn model_info(
        &self,
        request: Request<wire::ModelInfoRequest>,
    ) -> Result<Response<wire::ModelInfoResponse>, Status> {
        let request = request.into_inner();
        let catalog = self.lifecycle.catalog().ok_or_else(|| {
            Status::unavailable(format!("the worker is not ready: {}; ask again", self.lifecycle.reason()))
        })?;
        let models = match request.model.as_str() {
            "" => catalog.all().map(|served| served.info.clone()).collect(),
            name => vec![catalog.find(name)?.info.clone()],
        };
        Ok(Response::new(wire::ModelInfoResponse { models }))
    }

    async fn ready(&self, _: Request<wire::ReadyRequest>) -> Result<Response<wire::ReadyResponse>, Status> {
        let reason = self.lifecycle.reason();
        Ok(Response::new(wire::ReadyResponse { ready: reason.is_empty(), reason }))
    }

    async fn lifecycle(
        &self,
        request: Request<wire::LifecycleRequest>,
    ) -> Result<Response<wire::LifecycleResponse>, Status> {
        use wire::lifecycle_request::Action;
        match request.into_inner().action() {
            Action::Unspecified => {}
            Action::Drain => self.lifecycle.drain(),
            Action::Stop => self.lifecycle.stop(),
        }
        Ok(Response::new(self.lifecycle.report()))
    }
}

impl Catalog {
    fn find(&self, name: &str) -> Result<Arc<Served>, Status> {
        self.all().find(|served| served.info.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.all().map(|served| served.info.name.as_str()).collect();
            Status::not_found(format!("there is no model {name:?}; there is {}", names.join(", ")))
        })
    }
}
