//! `POST /v1/chat/completions`: a conversation for the model's chat template. Renders nothing itself.

use super::{TOP_LOGPROBS_MAX, choices, max_tokens, named_model, refuse_unsupported, stream};
use crate::dialects::common::fields::{Fields, kind, object, wrong};
use crate::dialects::common::sampling;
use crate::dialects::openai::response::generation::{Generation, Plan, Shape};
use crate::dialects::{Ask, Facts, Parsed};
use crate::error::Error;
use crate::message::Head;
use outrider_protos::worker::v1 as worker;
use serde_json::{Map, Value};

/// Roles the API knows, and the word templates know them by.
static ROLES: &[(&str, &str)] =
    &[("assistant", "assistant"), ("developer", "system"), ("system", "system"), ("tool", "tool"), ("user", "user")];

/// Template variables that are set by fields of their own, or by the worker.
static RESERVED_ARGS: &[&str] = &["messages", "tools"];

pub fn parse(head: &Head, body: &[u8], facts: &Facts) -> Result<Parsed, Error> {
    let map = object(head, body)?;
    let fields = Fields::new(&map);
    let model = named_model(&fields, facts, worker::Task::Generate)?.name.clone();
    refuse_unsupported(&fields)?;
    let chat = worker::Chat {
        messages: messages(&fields)?,
        tools_json: tools(&fields)?,
        template_args_json: template_args(&fields)?,
    };
    let newer = max_tokens(&fields, "max_completion_tokens", 1)?;
    let older = max_tokens(&fields, "max_tokens", 1)?;
    let stopping = sampling::stopping(&fields, newer.or(older))?;
    let plan = Plan {
        shape: Shape::Chat,
        prompts: 1,
        n: choices(&fields, 1)?,
        stream: stream(&fields)?,
        logprobs: logprobs(&fields)?,
        echo: false,
        stop_token_ids: stopping.stop_token_ids.clone(),
    };
    let request = worker::GenerateRequest {
        model: model.clone(),
        request_id: head.request_id.clone(),
        prompt: Some(worker::generate_request::Prompt::Chat(chat)),
        stopping: Some(stopping),
        sampling: Some(sampling::sampling(&fields)?),
        n: plan.n,
        logprobs: plan.logprobs,
        echo: false,
    };
    let answer = Box::new(Generation::new(head, model.clone(), plan));
    Ok(Parsed { model: Some(model), ask: Ask::Generate(request), answer })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, Error> {
    let wanted = fields.flag("logprobs")?;
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX)?.unwrap_or(0) as u32;
    if top > 0 && !wanted {
        return Err(fields.refuse("top_logprobs", "is only allowed when `logprobs` is true"));
    }
    Ok(wanted.then_some(top))
}

fn messages(fields: &Fields<'_>) -> Result<Vec<worker::ChatMessage>, Error> {
    let Some(items) = fields.array("messages")? else { return Err(fields.refuse("messages", "is required")) };
    if items.is_empty() {
        return Err(fields.refuse("messages", "must hold at least one message"));
    }
    items.iter().enumerate().map(|(place, item)| message(&Fields::of(item, format!("messages[{place}]"))?)).collect()
}

fn message(fields: &Fields<'_>) -> Result<worker::ChatMessage, Error> {
    let role = fields.required_string("role")?;
    let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == role) else {
        if role == "function" {
            return Err(Error::Unsupported { feature: "the role `function` (use `tool` with `tool_call_id`)".into() });
        }
        let known = ROLES.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(fields.refuse("role", &format!("must be one of {known}")));
    };
    if fields.get("function_call").is_some() {
        return Err(Error::Unsupported { feature: format!("`{}` (use `tool_calls`)", fields.path("function_call")) });
    }
    let tool_calls_json = if *role == "assistant" { tool_calls(fields)? } else { String::new() };
    let content = match content(fields)? {
        Some(content) => content,
        // An assistant that called a tool may have said nothing.
        None if *role == "assistant" => fields.string("refusal")?.unwrap_or_default().to_owned(),
        None => return Err(fields.refuse("content", "is required: a string, or an array of text parts")),
    };
    Ok(worker::ChatMessage {
        role: (*role).to_owned(),
        content,
        tool_calls_json,
        tool_call_id: fields.string("tool_call_id")?.unwrap_or_default().to_owned(),
        name: fields.string("name")?.unwrap_or_default().to_owned(),
    })
}

/// Content as one text; parts are joined by line feeds, as vLLM does for templates that take text.
fn content(fields: &Fields<'_>) -> Result<Option<String>, Error> {
    let parts = match fields.get("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(fields.wrong("content", "a string or an array of parts")),
    };
    let path = fields.path("content");
    let mut texts = Vec::with_capacity(parts.len());
    for (place, part) in parts.iter().enumerate() {
        if let Value::String(text) = part {
            texts.push(text.as_str());
            continue;
        }
        let part = Fields::of(part, format!("{path}[{place}]"))?;
        let field = match part.required_string("type")? {
            "text" | "input_text" | "output_text" => "text",
            "refusal" => "refusal",
            other => {
                let at = part.place();
                let other: String = other.chars().take(64).collect();
                let words =
                    format!("`{at}` is of type `{other}`; this model takes text only: send parts of type `text`");
                return Err(Error::invalid_param(at, words));
            }
        };
        let Some(text) = part.string(field)? else { return Err(part.refuse(field, "is required")) };
        texts.push(text);
    }
    Ok(Some(texts.join("\n")))
}

/// Tool calls as templates expect them: `arguments` as an object, where callers send it as JSON text.
fn tool_calls(fields: &Fields<'_>) -> Result<String, Error> {
    let Some(calls) = fields.array("tool_calls")?.filter(|calls| !calls.is_empty()) else { return Ok(String::new()) };
    let path = fields.path("tool_calls");
    let mut calls = calls.to_vec();
    for (place, call) in calls.iter_mut().enumerate() {
        let at = format!("{path}[{place}]");
        let function = call.get_mut("function").and_then(Value::as_object_mut).ok_or_else(|| {
            Error::invalid_param(at.clone(), format!("`{at}.function` must be an object with `name` and `arguments`"))
        })?;
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(wrong(
                &format!("{at}.function.name"),
                "a string",
                function.get("name").unwrap_or(&Value::Null),
            ));
        }
        let at = format!("{at}.function.arguments");
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map_err(|error| Error::invalid_param(at.clone(), format!("`{at}` must be JSON text: {error}")))?,
            Some(object @ Value::Object(_)) => object.clone(),
            Some(other) => return Err(wrong(&at, "JSON text", other)),
        };
        function.insert("arguments".into(), arguments);
    }
    Ok(Value::Array(calls).to_string())
}

/// The tools, as JSON text for the template; empty where the model shall not call any.
fn tools(fields: &Fields<'_>) -> Result<String, Error> {
    let tools = fields.array("tools")?.unwrap_or_default();
    for (place, tool) in tools.iter().enumerate() {
        let tool = Fields::of(tool, format!("tools[{place}]"))?;
        if tool.required_string("type")? != "function" {
            return Err(tool.refuse("type", "must be \"function\""));
        }
        let Some(function) = tool.fields("function")? else { return Err(tool.refuse("function", "is required")) };
        function.required_string("name")?;
    }
    match fields.get("tool_choice") {
        None => {}
        Some(Value::String(choice)) if choice == "auto" => {}
        Some(Value::String(choice)) if choice == "none" => return Ok(String::new()),
        Some(Value::String(choice)) if choice == "required" => {
            return Err(Error::Unsupported { feature: "`tool_choice` \"required\" (use \"auto\" or \"none\")".into() });
        }
        Some(Value::Object(_)) => {
            return Err(Error::Unsupported {
                feature: "`tool_choice` of a named tool (use \"auto\" or \"none\")".into(),
            });
        }
        Some(_) => return Err(fields.wrong("tool_choice", "\"auto\" or \"none\"")),
    }
    Ok(if tools.is_empty() { String::new() } else { Value::from(tools).to_string() })
}

/// Further variables of the template, as a JSON object's text.
fn template_args(fields: &Fields<'_>) -> Result<String, Error> {
    let mut args = match fields.get("chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(args)) => args.clone(),
        Some(other) => {
            let words = format!("`chat_template_kwargs` must be an object, got {}", kind(other));
            return Err(Error::invalid_param("chat_template_kwargs", words));
        }
    };
    if let Some(name) = RESERVED_ARGS.iter().find(|name| args.contains_key(**name)) {
        return Err(
            fields.refuse("chat_template_kwargs", &format!("must not hold `{name}`, which has a field of its own"))
        );
    }
    if fields.get("add_generation_prompt").is_some() {
        args.insert("add_generation_prompt".into(), fields.flag("add_generation_prompt")?.into());
    }
    if let Some(documents) = fields.array("documents")? {
        args.insert("documents".into(), documents.into());
    }
    Ok(if args.is_empty() { String::new() } else { Value::Object(args).to_string() })
}
