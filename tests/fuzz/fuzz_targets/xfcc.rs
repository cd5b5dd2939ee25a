//! Any text as `x-forwarded-client-cert`; what can be read is written and read again.
#![no_main]

use outrider::tls::xfcc::parse;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(elements) = parse(text)
    {
        let written: Vec<String> = elements.iter().map(ToString::to_string).filter(|text| !text.is_empty()).collect();
        let known = elements.into_iter().filter(|element| *element != Default::default()).collect::<Vec<_>>();
        assert_eq!(parse(&written.join(",")), Ok(known));
    }
});
