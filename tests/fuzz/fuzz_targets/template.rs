//! The first line as a template; the rest as the document it is filled from.
#![no_main]

use outrider::auth::selectors::Template;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, document) = text.split_once('\n').unwrap_or((text, r#"{"a":{"b":"c"},"d":[1,2]}"#));
    let document = serde_json::from_str(document).unwrap_or_else(|_| document.into());
    for template in [Template::parse(source), Template::parse_text(source)].into_iter().flatten() {
        let _ = (template.text(&document), template.resolve(&document));
    }
});
