//! The first line as a CEL expression; the rest as the authorization JSON it is about.
#![no_main]

use outrider::auth::expressions::Expression;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (source, document) = text.split_once('\n').unwrap_or((text, r#"{"auth":{"identity":{"sub":"a","n":[1]}}}"#));
    let document = serde_json::from_str(document).unwrap_or_else(|_| document.into());
    if let Ok(expression) = Expression::compile(source) {
        let _ = (expression.holds(&document), expression.evaluate(&document));
    }
});
