//! A stream of YAML documents, of which those that change are written anew and all others keep every byte.

use super::{Problem, yaml};
use serde_yaml_ng::Value;

/// What is done to a manifest: whether it changed, or why it cannot be done.
pub type Edit<'a> = dyn FnMut(&mut Value, &str) -> Result<bool, Vec<Problem>> + 'a;

/// Edits every manifest of the stream. All problems of all documents come together.
pub fn edit(text: &str, edit: &mut Edit<'_>) -> Result<String, Vec<Problem>> {
    let (mut out, mut problems) = (String::with_capacity(text.len() * 2), Vec::new());
    for (number, document) in split(text).into_iter().enumerate() {
        match changed(document.body, number + 1, edit) {
            Ok(None) => {
                out.push_str(document.mark);
                out.push_str(document.body);
            }
            Ok(Some(body)) => {
                let bare = document.mark.is_empty() && number == 0 && !document.body.starts_with("---");
                out.push_str(match document.mark {
                    "" if bare => "",
                    "" => "---\n",
                    mark => mark,
                });
                out.push_str(&body);
            }
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

fn changed(body: &str, number: usize, edit: &mut Edit<'_>) -> Result<Option<String>, Vec<Problem>> {
    let place = format!("document {number}");
    let problem = |words| vec![Problem { place: place.clone(), words }];
    let (mut manifest, writable) = yaml::read(body).map_err(problem)?;
    if !each(&mut manifest, &place, edit)? {
        return Ok(None);
    }
    writable.map_err(problem)?;
    Ok(Some(yaml::write(&manifest)))
}

/// A manifest, or each item of a `List`.
fn each(manifest: &mut Value, place: &str, edit: &mut Edit<'_>) -> Result<bool, Vec<Problem>> {
    if manifest.get("kind").and_then(Value::as_str) != Some("List") {
        let place = name(manifest).unwrap_or_else(|| place.to_owned());
        return edit(manifest, &place);
    }
    let Some(Value::Sequence(items)) = manifest.get_mut("items") else { return Ok(false) };
    let (mut any, mut problems) = (false, Vec::new());
    for (at, item) in items.iter_mut().enumerate() {
        match each(item, &format!("{place}, item {}", at + 1), edit) {
            Ok(changed) => any |= changed,
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(any) } else { Err(problems) }
}

/// `Deployment/model`.
fn name(manifest: &Value) -> Option<String> {
    let metadata = manifest.get("metadata")?;
    let name = metadata.get("name").or_else(|| metadata.get("generateName"))?.as_str()?;
    Some(format!("{}/{name}", manifest.get("kind")?.as_str()?))
}

struct Document<'a> {
    /// The line that begins it, with its line break; empty for a first document without one.
    mark: &'a str,
    body: &'a str,
}

/// YAML 1.2.2 §9.1.2: `---` at the beginning of a line, which no scalar's line may be.
fn split(text: &str) -> Vec<Document<'_>> {
    let mut found = vec![Document { mark: "", body: "" }];
    let (mut at, mut begun) = (0, 0);
    for line in text.split_inclusive('\n') {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if let Some(rest) = rest {
            found.last_mut().expect("there is always one").body = &text[begun..at];
            let rest = rest.trim();
            // With content on its own line the mark belongs to the body.
            let mark = if rest.is_empty() || rest.starts_with('#') { line } else { "" };
            begun = at + mark.len();
            found.push(Document { mark, body: "" });
        }
        at += line.len();
    }
    found.last_mut().expect("there is always one").body = &text[begun..];
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_an_untouched_stream_keep_every_byte() {
        let text =
            "# head\r\n---\n\n--- # a comment\nkind:   Odd   # kept\nspec: {a: [1,2]}\n--- {kind: X}\n---\n1: !x y\n";
        assert_eq!(edit(text, &mut |_, _| Ok(false)).unwrap(), text);
    }

    #[test]
    fn is_only_what_changed_written_anew() {
        let text = "a:   1\n--- # two\nb:   2\n---\nc:   3\n";
        let mut touch = |manifest: &mut Value, place: &str| {
            Ok(place == "document 2" && manifest.as_mapping_mut().unwrap().insert("x".into(), 1.into()).is_none())
        };
        assert_eq!(edit(text, &mut touch).unwrap(), "a:   1\n--- # two\nb: 2\nx: 1\n---\nc:   3\n");
    }

    #[test]
    fn is_a_broken_document_named() {
        let problems = edit("a: 1\n---\nb: [1\n", &mut |_, _| Ok(false)).unwrap_err();
        assert_eq!(problems[0].place, "document 2");
    }
}
