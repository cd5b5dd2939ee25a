//! What selectors find, beside what gjson finds in the same documents.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn root() -> Value {
    json!({
        "auth": {"identity": {
            "name": "Ann", "fav.movie": "Heat", "roles": ["admin", "dev"], "note": "say \"hi\"", "count": 3, "ratio": 1.5,
            "thousand": 1e3, "none": null, "b64": "aGVsbG8", "odd": "a\u{200b}b\r\nc",
        }},
        "request": {"headers": {"authorization": "Bearer a.b.c", "x-list": "a,b,c"}, "path": "/v1/models/llama"},
    })
}

#[derive(serde::Deserialize)]
struct Case {
    doc: usize,
    path: String,
    exists: bool,
    text: String,
    array: Vec<String>,
}

/// What gjson (Go, v1.20.1) says of the same documents and paths: made by `tests/goldens/selectors/oracle`.
#[test]
fn does_a_path_find_what_gjson_finds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/selectors");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("a golden");
    let documents: Vec<String> = serde_json::from_str(&read("documents.json")).expect("a list of documents");
    let documents: Vec<Value> = documents.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let (mut wrong, mut refused, mut all) = (Vec::new(), 0, 0);
    for line in read("cases.jsonl").lines() {
        let case: Case = serde_json::from_str(line).expect("a case");
        all += 1;
        let Ok(selector) = Selector::parse(&case.path) else {
            // A bracket torn by a bar inside `#.[…|…]`: gjson answers something that nobody meant.
            refused += 1;
            continue;
        };
        let found = selector.find(&documents[case.doc]);
        let array: Vec<_> = found.array().iter().map(text_of).collect();
        if found.exhausted() || found.exists() != case.exists || found.text() != case.text || array != case.array {
            wrong.push(format!("{line}\n  ours: {} {:?} {array:?}", found.exists(), found.text()));
        }
    }
    assert!(refused * 20 < all, "{refused} of {all} paths are refused");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_do_the_modifiers_for_text_make() {
    for (path, expected) in [
        ("request.headers.authorization.@extract:{\"sep\":\" \",\"pos\":1}", json!("a.b.c")),
        ("request.headers.authorization.@extract:{\"pos\":7}", json!(null)),
        ("request.headers.x-list.@extract:{\"sep\":\",\",\"pos\":2}", json!("c")),
        ("request.path.@extract:{\"sep\":\"/\",\"pos\":3}|@case:upper", json!("LLAMA")),
        ("auth.identity.name.@case:lower", json!("ann")),
        ("auth.identity.name.@replace:{\"old\":\"n\",\"new\":\"m\"}", json!("Amm")),
        ("auth.identity.name.@base64:encode", json!("QW5u")),
        ("auth.identity.b64.@base64:decode", json!("hello")),
        ("auth.identity.name.@base64:encode|@base64:decode", json!("Ann")),
        ("auth.identity.note.@base64:encode|@base64:decode", json!("say \"hi\"")),
        ("auth.identity.odd.@strip", json!("abc")),
        // Where Authorino's text ends at a quotation mark, ours goes on.
        ("auth.identity.note.@extract:{\"pos\":1}", json!("\"hi\"")),
        ("auth.identity.roles.@case:upper", json!(["ADMIN", "DEV"])),
        ("auth.identity.absent.@case:upper", json!(null)),
        ("auth.identity.absent.@base64:encode", json!("")),
        ("auth.identity.absent|@base64:encode", json!("")),
        ("request.headers.authorization.@base64:decode", json!("")),
    ] {
        assert_eq!(Selector::parse(path).unwrap().find(&root()).value(), expected, "{path}");
    }
}

#[test]
fn is_what_cannot_be_meant_refused_when_it_is_loaded() {
    for path in [
        "a.@case:title",
        "a.@base64",
        "a.@extract:{\"pos\":-1}",
        "a.@extract:{pos}",
        "a.@replace",
        "{a,b",
        "[a",
        "!{\"a\"",
        "!nan",
        &"a.".repeat(200),
        &"[".repeat(300),
        &format!("{}a{}", "[".repeat(200), "]".repeat(200)),
        &"a".repeat(5000),
    ] {
        assert!(Selector::parse(path).is_err(), "{path}");
    }
}

#[test]
fn what_is_a_number_as_text() {
    for (number, text) in [
        (json!(3), "3"),
        (json!(-0.5), "-0.5"),
        (json!(1e3), "1000"),
        (json!(1e21), "1000000000000000000000"),
        (json!(1.0), "1"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        assert_eq!(text_of(&number), text);
    }
}

#[test]
fn does_a_template_fill_in_what_was_found() {
    for (source, expected) in [
        ("auth.identity.count", json!(3)),
        ("Hello {auth.identity.name}!", json!("Hello Ann!")),
        ("{auth.identity.name}", json!("Ann")),
        ("{auth.identity.count}{auth.identity.ratio}{auth.identity.thousand}", json!("31.51000")),
        ("{auth.identity.absent}", json!("")),
        ("x{}y", json!("xy")),
        (r"\{auth.identity.name} {auth.identity.name}", json!("{auth.identity.name} Ann")),
        (r"a\\b{auth.identity.count}", json!(r"a\b3")),
        (r"a\b{auth.identity.count}", json!("ab3")),
        ("{auth.identity.roles}", json!(r#"["admin","dev"]"#)),
        ("{auth.identity.fav\\.movie}", json!("Heat")),
        ("auth.identity.name.@replace:{\"old\":\"A\",\"new\":\"B\"}", json!("Bnn")),
        ("as {auth.identity.name.@replace:{\"old\":\"A\",\"new\":\"B\"}}", json!("as Bnn")),
        ("/{request.path.@extract:{\"sep\":\"/\",\"pos\":2}}/x", json!("/models/x")),
    ] {
        let template = Template::parse(source).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(template.resolve(&root()), Ok(expected), "{source}");
    }
    assert!(Template::parse("Hello {auth.identity.name").is_err());
    assert!(Template::parse("Hello {a.@case:none}").is_err());
    assert_eq!(Template::parse_text("plain").unwrap().text(&root()), Ok("plain".into()));
}

#[test]
fn does_a_template_stay_bounded() {
    let root = json!({"big": "x".repeat(100_000)});
    let template = Template::parse(&"{big}".repeat(20)).unwrap();
    assert!(template.text(&root).is_err());
    assert!(Template::parse(&"{big} ".repeat(200)).is_err());
}

#[test]
fn does_a_selector_that_runs_away_end() {
    let mut wide = json!({"a": "x".repeat(100)});
    for _ in 0..4 {
        wide = json!({"l": vec![wide.clone(); 30], "a": "x".repeat(100)});
    }
    let mut deep = json!(1);
    for _ in 0..400 {
        deep = Value::Array(vec![deep]);
    }
    let copies = format!("[{}]", vec!["@this"; 300].join(","));
    let grown = vec!["@replace:{\"old\":\"x\",\"new\":\"xxxxxxxxxxxxxxxx\"}"; 20].join("|");
    for path in ["@dig:l.#.a", "l.#.l.#.l.#.@dig:a", &copies, &format!("a.{grown}")] {
        let selector = Selector::parse(path).unwrap();
        let found = selector.find(&wide);
        assert!(found.exhausted() && !found.exists() && found.text().is_empty(), "{path}");
    }
    // What is deep is walked, borrowed, and copied no deeper than is safe.
    assert!(Selector::parse("0.0.0").unwrap().find(&deep).exists());
    assert!(Selector::parse("@flatten:{\"deep\":true}").unwrap().find(&deep).exhausted());
}

fn document() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec!["a", "b", "c", "first", "a.b", "é"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9i64..99).prop_map(Value::from),
        "[a-c é]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|entries| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// Paths on which the crate and Go agree: no wildcards over several levels, no pipes into nothing.
fn plain_path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "first", "a\\.b", "0", "1", "é"]);
    (prop::collection::vec(part, 1..4), prop::sample::select(vec!["", ".#", ".#.a"]))
        .prop_map(|(parts, end)| parts.join(".") + end)
}

proptest! {
    #[test]
    fn does_the_crate_of_the_same_name_agree(document in document(), path in plain_path()) {
        prop_assume!(document.is_object() || document.is_array());
        let text = document.to_string();
        let theirs = gjson::get(&text, &path);
        let selector = Selector::parse(&path).unwrap();
        let ours = selector.find(&document);
        prop_assert_eq!((ours.exists(), ours.text()), (theirs.exists(), theirs.str().into()), "{} in {}", path, text);
    }

    #[test]
    fn does_any_text_leave_us_standing(
        document in document(),
        path in r##"([a-c0-9.|#@*?!\\"{}()\[\],:=<>%~ é]|first|@dig:|@this|#\(|@flatten|@join){0,24}"##,
    ) {
        if let Ok(selector) = Selector::parse(&path) {
            let found = selector.find(&document);
            let _ = (found.text(), found.array().len());
            let _ = found.value();
        }
        if let Ok(template) = Template::parse(&path) {
            let _ = template.resolve(&document);
        }
    }
}
