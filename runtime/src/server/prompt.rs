//! Prompts to token ids: plain text, conversations through the chat template, ids passed through. Blocks.

use outrider_protos::worker::v1 as wire;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::catalog::Served;
use super::status;
use crate::tokenizer::Conversation;

/// Refuses a text over the limit before any work is done for it.
pub fn bounded(bytes: usize, bytes_max: usize) -> Result<(), Status> {
    if bytes > bytes_max {
        return Err(Status::invalid_argument(format!("the prompt has {bytes} bytes; at most {bytes_max} are taken")));
    }
    Ok(())
}

/// Ids of a plain text.
pub fn text_ids(served: &Served, text: &str, add_special: bool, bytes_max: usize) -> Result<Vec<u32>, Status> {
    bounded(text.len(), bytes_max)?;
    served.tokenizer()?.encode(text, add_special).map_err(status::tokenizer)
}

/// Ids of a conversation, with the header of the answer at its end.
pub fn chat_ids(served: &Served, chat: wire::Chat, bytes_max: usize) -> Result<Vec<u32>, Status> {
    let bytes = chat.messages.iter().map(|message| message.content.len() + message.tool_calls_json.len());
    bounded(bytes.sum::<usize>() + chat.tools_json.len() + chat.template_args_json.len(), bytes_max)?;
    if chat.messages.is_empty() {
        return Err(Status::invalid_argument("messages: there are none; at least one is needed"));
    }
    let template =
        served.template.as_ref().ok_or_else(|| status::tokenizer(crate::tokenizer::TokenizerError::NoTemplate))?;
    let messages = chat.messages.into_iter().enumerate().map(|(i, m)| message(i, m)).collect::<Result<_, _>>()?;
    let mut conversation = Conversation::new(Value::Array(messages), time::OffsetDateTime::now_utc());
    if !chat.tools_json.is_empty() {
        conversation.tools = parsed("tools_json", &chat.tools_json, Value::is_array, "an array")?;
    }
    if !chat.template_args_json.is_empty() {
        let args = parsed("template_args_json", &chat.template_args_json, Value::is_object, "an object")?;
        conversation.extra = args.as_object().cloned().unwrap_or_default();
    }
    let text = template.render(&conversation).map_err(status::tokenizer)?;
    // The template writes BOS itself where the model wants one; twice would be a prompt never trained on.
    served.tokenizer()?.encode(&text, false).map_err(status::tokenizer)
}

fn message(i: usize, message: wire::ChatMessage) -> Result<Value, Status> {
    let mut value = Map::new();
    value.insert("role".into(), message.role.into());
    value.insert("content".into(), message.content.into());
    if !message.tool_calls_json.is_empty() {
        let field = format!("messages[{i}].tool_calls_json");
        value.insert("tool_calls".into(), parsed(&field, &message.tool_calls_json, Value::is_array, "an array")?);
    }
    for (key, text) in [("tool_call_id", message.tool_call_id), ("name", message.name)] {
        if !text.is_empty() {
            value.insert(key.into(), json!(text));
        }
    }
    Ok(Value::Object(value))
}

fn parsed(field: &str, text: &str, is: impl Fn(&Value) -> bool, wanted: &str) -> Result<Value, Status> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Status::invalid_argument(format!("{field}: no JSON: {error}")))?;
    if is(&value) { Ok(value) } else { Err(Status::invalid_argument(format!("{field}: is not {wanted}"))) }
}
