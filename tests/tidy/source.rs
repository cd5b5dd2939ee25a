//! The repository's own source files, as the rules see them.

use outrider_tests::places::root;
use std::path::{Path, PathBuf};

/// A Rust source file.
pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Whether the file is a test through and through: an integration test, a `tests.rs`, or what only tests use.
    pub fn is_test(&self) -> bool {
        let of_tests = self.path.starts_with("tests/") || self.path.contains("/tests/");
        of_tests || self.path.ends_with("/tests.rs") || self.path.ends_with("/testing.rs")
    }

    /// Lines before the unit tests, with their numbers from 1. None of a file that is all test.
    pub fn story(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(i, line)| (i + 1, line));
        lines.take_while(|(_, line)| !self.is_test() && *line != "#[cfg(test)]")
    }

    /// As [`Source::story`], without comments.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.story().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Every Rust file of the workspace.
pub fn all() -> Vec<Source> {
    let mut files = Vec::new();
    for folder in ["protos", "proxy", "runtime", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the workspace has more than {} files", files.len());
    files.sort();
    files.into_iter().map(|path| read(&path)).collect()
}

/// The files under one folder.
pub fn under(folder: &str) -> Vec<Source> {
    let files: Vec<Source> = all().into_iter().filter(|file| file.path.starts_with(folder)).collect();
    assert!(!files.is_empty(), "{folder} has no Rust files");
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).expect("a readable file");
    let path = path.strip_prefix(root()).expect("under the root").to_string_lossy().replace('\\', "/");
    Source { path, text }
}
