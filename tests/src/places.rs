//! Where things are: the repository, the built binaries, the models. Never guesses: what is absent is a clear failure.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_path_buf()
}

/// A binary of the same build as this one: test executables live in `<target>/<profile>/deps`, others beside it. Or one of
/// the folder `OUTRIDER_BINARIES`.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("OUTRIDER_BINARIES") {
        let path = Path::new(&folder).join(name);
        assert!(path.exists(), "{} is absent", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("a running test has an executable");
    let folders = test.ancestors().skip(1).take(2);
    let path = folders.map(|folder| folder.join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into());
    assert!(path.exists(), "{} is absent: `make build` first", path.display());
    path
}

/// A file or folder in `models/`, which `make models` fills.
pub fn model(name: &str) -> PathBuf {
    let path = root().join("models").join(name);
    assert!(path.exists(), "{} is absent: `make models` first", path.display());
    path
}

/// SmolLM2-135M-Instruct, Q4_1.
pub fn smollm2() -> PathBuf {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// all-MiniLM-L6-v2.
pub fn minilm() -> PathBuf {
    model("all-MiniLM-L6-v2")
}

/// A golden file, parsed.
pub fn golden(path: &str) -> serde_json::Value {
    let path = root().join("tests/goldens").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
