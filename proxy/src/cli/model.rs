//! What `--model` asks for: a name callers use, and a file or folder that is there.
//!
//! Never looks into a model: whether its bytes make sense is the worker's to say.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A model by the name callers use.
#[derive(Debug, PartialEq)]
pub struct Model {
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
}

impl FromStr for Model {
    type Err = String;

    /// `NAME=PATH`, or `PATH` alone: then the file's name without its extension is the model's.
    fn from_str(text: &str) -> Result<Model, String> {
        // A slash before the first `=` means that the `=` is part of a path.
        let (name, path) = match text.split_once('=') {
            Some((name, path)) if !name.contains('/') => (name.to_owned(), Path::new(path)),
            _ => {
                let path = Path::new(text);
                let of = if path.extension() == Some(OsStr::new("gguf")) { path.file_stem() } else { path.file_name() };
                (of.unwrap_or_default().to_string_lossy().into_owned(), path)
            }
        };
        if name.is_empty() || name.len() > 128 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(format!("--model {text}: `{name}` is no model name; write --model NAME=PATH"));
        }
        let path = std::path::absolute(path).map_err(|error| format!("--model {text}: {error}"))?;
        Ok(Model { name, path })
    }
}

/// What `--model` asks for, every file known to be there.
pub fn models(given: &[String]) -> Result<Vec<Model>, String> {
    if given.is_empty() {
        return Err("no model is given; write --model NAME=PATH, where PATH is a .gguf file or the folder of a \
                    Hugging Face checkpoint"
            .into());
    }
    let mut models = Vec::<Model>::new();
    for text in given {
        let model: Model = text.parse()?;
        check(&model)?;
        if models.iter().any(|other| other.name == model.name) {
            return Err(format!("two models are called `{}`; write --model NAME=PATH with another name", model.name));
        }
        models.push(model);
    }
    Ok(models)
}

fn check(model: &Model) -> Result<(), String> {
    let (name, path) = (&model.name, &model.path);
    // Opened, not only looked at: a file one may not read is no model either.
    let file = File::open(path).map_err(|error| format!("model `{name}`: cannot open {}: {error}", path.display()))?;
    let metadata = file.metadata().map_err(|error| format!("model `{name}`: {}: {error}", path.display()))?;
    if metadata.is_dir() {
        if !path.join("config.json").is_file() {
            return Err(format!(
                "model `{name}`: {} has no config.json, so it is not a Hugging Face checkpoint; \
                 for a GGUF model give the .gguf file itself",
                path.display()
            ));
        }
    } else if metadata.len() == 0 {
        return Err(format!("model `{name}`: {} is empty", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn which_model_is_meant() {
        let name = |text: &str| text.parse::<Model>().map(|model| (model.name, model.path));
        let cases = [
            ("smol=/m/x.gguf", "smol", "/m/x.gguf"),
            ("/m/SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1", "/m/SmolLM2.Q4_1.gguf"),
            ("/m/all-MiniLM-L6-v2", "all-MiniLM-L6-v2", "/m/all-MiniLM-L6-v2"),
            ("/m/a=b.gguf", "a=b", "/m/a=b.gguf"),
            ("a=/m/b=c.gguf", "a", "/m/b=c.gguf"),
        ];
        for (text, model, path) in cases {
            assert_eq!(name(text), Ok((model.into(), path.into())), "{text}");
        }
        assert!(name("x.gguf").unwrap().1.is_absolute());
        for bad in ["", "=/m/x.gguf", "a b=/m/x.gguf", "/"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_of_a_model_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        fs::write(at("x.gguf"), "GGUF").unwrap();
        fs::write(at("empty.gguf"), "").unwrap();
        let told = |given: &[String]| models(given).unwrap_err();
        assert!(told(&[]).contains("--model NAME=PATH"));
        assert!(told(&[at("absent.gguf")]).contains("cannot open"));
        assert!(told(&[at("empty.gguf")]).contains("is empty"));
        assert!(told(&[at("")]).contains("no config.json"));
        assert!(told(&[at("x.gguf"), at("x.gguf")]).contains("two models are called `x`"));
        assert_eq!(models(&[at("x.gguf"), format!("y={}", at("x.gguf"))]).unwrap().len(), 2);
    }
}
