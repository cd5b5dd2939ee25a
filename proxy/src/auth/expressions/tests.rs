//! What CEL expressions say of a request, how much they may cost, and which are refused.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn root() -> Value {
    json!({
        "request": {
            "method": "POST", "path": "/v1/models/llama", "size": 12,
            "headers": {"x-team": "red,blue", "authorization": "Bearer abc"},
        },
        "auth": {"identity": {
            "sub": "Alice", "age": 37, "ratio": 0.5, "roles": ["admin", "dev"], "none": null,
            "realm": {"roles": ["a", "b"]}, "labels": {"k8s.io/name": "x"},
        }},
        "source": {"address": "10.0.0.1"},
    })
}

#[test]
fn what_do_expressions_come_to() {
    for (source, expected) in [
        ("request.method", json!("POST")),
        ("request.headers['x-team'].split(',')", json!(["red", "blue"])),
        ("request['path']", json!("/v1/models/llama")),
        ("auth.identity.age + 1.0", json!(38)),
        ("auth.identity.age > 30", json!(true)),
        ("auth.identity.ratio", json!(0.5)),
        ("auth.identity.none", json!(null)),
        ("metadata", json!(null)),
        ("auth.identity.realm", json!({"roles": ["a", "b"]})),
        ("auth.identity.labels['k8s.io/name']", json!("x")),
        ("auth.identity.roles[1]", json!("dev")),
        ("size(auth.identity.roles)", json!(2)),
        ("auth.identity.roles.map(r, r.upperAscii())", json!(["ADMIN", "DEV"])),
        ("auth.identity.roles.filter(r, r.startsWith('a'))", json!(["admin"])),
        ("auth.identity.roles.exists(r, r == 'dev')", json!(true)),
        ("auth.identity.roles.all(r, size(r) < 4)", json!(false)),
        ("auth.identity.roles.exists_one(r, r == 'dev')", json!(true)),
        ("has(auth.identity.sub) && !has(auth.identity.absent)", json!(true)),
        ("'x-team' in request.headers", json!(true)),
        ("'absent' in request.headers", json!(false)),
        ("{'user': auth.identity.sub, 'n': 1}", json!({"n": 1, "user": "Alice"})),
        ("auth.identity.sub.lowerAscii() == 'alice'", json!(true)),
        ("'abc'.charAt(1)", json!("b")),
        ("'hello'.indexOf('l')", json!(2)),
        ("'hello'.lastIndexOf('l')", json!(3)),
        ("['a', 'b'].join('-')", json!("a-b")),
        ("strings.quote('a')", json!("\"a\"")),
        ("'aXbX'.replace('X', 'y')", json!("ayby")),
        ("'hello'.substring(1, 3)", json!("el")),
        ("'  a '.trim()", json!("a")),
        ("'%s is %d'.format(['a', 1])", json!("a is 1")),
        ("base64.decode('aGk=') == b'hi'", json!(true)),
        ("request.path.matches('^/v[0-9]+/')", json!(true)),
        ("int(auth.identity.age)", json!(37)),
        ("string(request.size)", json!("12")),
        ("type(request.size) == double", json!(true)),
        ("request.method == 'GET' ? 1 : 2", json!(2)),
        // The variable of a loop is not the one outside.
        ("[{'sub': 'x'}].map(auth, auth.sub)", json!(["x"])),
        ("auth.identity.roles.map(r, [1].map(x, r + auth.identity.sub))", json!([["adminAlice"], ["devAlice"]])),
    ] {
        let expression = Expression::compile(source).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(expression.evaluate(&root()), Ok(expected), "{source}");
    }
}

#[test]
fn is_what_cannot_be_evaluated_a_fault_that_quotes_no_value() {
    for source in [
        "auth.identity.absent",
        "auth.identity.absent == 'x'",
        "metadata.x",
        "request.headers.authorization + 1",
        "request.headers.authorization < 1",
        "auth.identity.roles[7]",
        "1 / 0 == 1",
        "request.headers.authorization.nosuch()",
        "optional.none()",
    ] {
        let expression = Expression::compile(source).unwrap_or_else(|problem| panic!("{problem}"));
        let fault = expression.evaluate(&root()).expect_err(source);
        assert!(!fault.words.contains("Bearer"), "{fault}");
    }
    let not_bool = Expression::compile("request.headers.authorization").unwrap().holds(&root()).unwrap_err();
    assert!(not_bool.words.contains("must be a bool") && !not_bool.words.contains("Bearer"), "{not_bool}");
}

#[test]
fn is_what_is_no_expression_refused_when_it_is_loaded() {
    for source in [
        "",
        "request.",
        "request.method ==",
        "unknown.thing",
        "reqest.method == 'GET'",
        "google.protobuf.Struct{}",
        "[1].map(x, y)",
        "'a",
        &"(".repeat(2000),
        &format!("{}1{}", "[".repeat(500), "]".repeat(500)),
        &"!".repeat(4000),
        &vec!["1"; 600].join(" + "),
        &"a".repeat(9000),
    ] {
        let shown: String = source.chars().take(40).collect();
        assert!(Expression::compile(source).is_err(), "{shown}");
    }
}

#[test]
fn does_a_loop_that_runs_away_end_in_a_fault() {
    let list: Vec<u32> = (0..1000).collect();
    let root = json!({"auth": {"l": list}});
    for source in [
        "auth.l.all(a, auth.l.all(b, auth.l.all(c, true)))",
        "auth.l.exists(a, auth.l.exists(b, false))",
        "size(auth.l.map(a, auth.l.map(b, a))) > 0",
        "size(auth.l.filter(a, auth.l.exists(b, b < 0.0))) > 0",
        "auth.l.exists(a, auth.l.exists(b, false)) || true",
        "auth.l.exists_one(a, auth.l.exists_one(b, false))",
    ] {
        let fault = Expression::compile(source).unwrap().holds(&root).expect_err(source);
        assert!(fault.words.contains("turns"), "{fault}");
    }
    assert_eq!(Expression::compile("size(auth.l.map(a, a)) == 1000").unwrap().holds(&root), Ok(true));
    assert_eq!(Expression::compile("auth.l.all(a, a < 1000)").unwrap().holds(&root), Ok(true));
}

#[test]
fn does_what_is_as_deep_as_we_take_fit_the_stack() {
    let sum = vec!["request.size"; 28].join(" + ");
    let nested = format!("{}1{}", "[".repeat(14), "]".repeat(14));
    let chosen = format!("{}2", "request.size == 1 ? 1 : ".repeat(14));
    let all = vec!["request.size > 1"; 60].join(" && ");
    for source in [sum, nested, chosen, all] {
        let expression = Expression::compile(&source).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(expression.evaluate(&root()).is_ok(), "{source}");
    }
}

proptest! {
    #[test]
    fn does_any_text_leave_us_standing(source in r#"[a-z.()\[\]{}"'!&|<>=+*/?:, 0-9]{0,60}"#) {
        if let Ok(expression) = Expression::compile(&source) {
            let _ = expression.evaluate(&root());
        }
    }

    #[test]
    fn do_expressions_made_of_parts_end(
        parts in prop::collection::vec(prop::sample::select(vec![
            "request.method", "auth.identity", "auth.identity.roles", ".map(x, x)", ".exists(x, x == '')", " == ",
            " && ", " || ", "!", "has(auth.identity.sub)", "size(", ")", "'s'", "1", "1.5", " in ", "[", "]", " + ",
        ]), 0..8),
    ) {
        if let Ok(expression) = Expression::compile(&parts.concat()) {
            let _ = expression.evaluate(&root());
            let _ = expression.holds(&root());
        }
    }
}
