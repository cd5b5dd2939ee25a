//! The first line as a selector and as a pattern's value; the rest as the document it looks at.
#![no_main]

use outrider::auth::{go_regex, selectors::Selector};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, document) = text.split_once('\n').unwrap_or((text, r#"{"a":[1,"b",{"c":null}],"d":"{\"e\":2}"}"#));
    let document = serde_json::from_str(document).unwrap_or_else(|_| document.into());
    if let Ok(selector) = Selector::parse(path) {
        let found = selector.find(&document);
        let _ = (found.exists(), found.text().len(), found.array().len());
        assert!(!found.exhausted() || !found.exists());
        let _ = found.value();
    }
    if let Ok(regex) = go_regex::compile(path) {
        let _ = regex.is_match(text);
    }
});
