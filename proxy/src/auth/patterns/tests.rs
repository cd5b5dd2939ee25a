//! When conditions hold, and what they make of what is not there.

use super::*;
use serde_json::json;

fn root() -> Value {
    json!({
        "request": {"method": "POST", "path": "/v1/chat", "headers": {"x-team": "red"}, "size": 10},
        "auth": {"identity": {"sub": "alice", "roles": ["admin", "dev"], "verified": true, "manager": null}},
    })
}

fn compile(yaml: &str, compat: Compat) -> Result<Condition, ConfigProblem> {
    let raw: Vec<RawPattern> = serde_yaml_ng::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    let named: NamedPatterns = serde_yaml_ng::from_str(
        "{api: [{selector: request.path, operator: matches, value: ^/v1/}], loop: [{patternRef: loop}]}",
    )
    .unwrap();
    Condition::compile(&raw, &named, compat, "when")
}

fn holds(yaml: &str, compat: Compat) -> Result<bool, Fault> {
    compile(yaml, compat).unwrap_or_else(|problem| panic!("{yaml}: {problem}")).holds(&root())
}

#[test]
fn which_conditions_hold() {
    for (yaml, expected) in [
        ("[]", true),
        ("[{selector: request.method, operator: eq, value: POST}]", true),
        ("[{selector: request.method, operator: eq, value: post}]", false),
        ("[{selector: request.size, operator: eq, value: '10'}]", true),
        ("[{selector: auth.identity.verified, operator: eq, value: 'true'}]", true),
        ("[{selector: request.method, operator: neq, value: GET}]", true),
        ("[{selector: auth.identity.roles, operator: incl, value: dev}]", true),
        ("[{selector: auth.identity.roles, operator: incl, value: root}]", false),
        ("[{selector: auth.identity.sub, operator: incl, value: alice}]", true),
        ("[{selector: auth.identity.roles, operator: excl, value: root}]", true),
        ("[{selector: auth.identity.roles, operator: excl, value: dev}]", false),
        ("[{selector: request.path, operator: matches, value: chat}]", true),
        ("[{selector: request.path, operator: matches, value: ^chat}]", false),
        ("[{selector: auth.identity.absent, operator: eq, value: ''}]", true),
        ("[{patternRef: api}]", true),
        ("[{predicate: \"request.size < 11 && request.path.startsWith('/v1')\"}]", true),
        ("[{any: [{selector: request.method, operator: eq, value: GET}, {patternRef: api}]}]", true),
        ("[{all: [{selector: request.method, operator: eq, value: GET}, {patternRef: api}]}]", false),
        ("[{any: []}]", false),
        ("[{all: []}]", true),
        ("[{patternRef: api}, {selector: request.method, operator: eq, value: GET}]", false),
    ] {
        assert_eq!(holds(yaml, Compat::default()), Ok(expected), "{yaml}");
    }
}

#[test]
fn does_what_is_absent_refuse_unless_told_otherwise() {
    let authorino = Compat { missing_matches_neq: true };
    for selector in ["auth.identity.absent", "auth.identity.manager", "nothing.at.all"] {
        for operator in ["neq", "excl"] {
            let yaml = format!("[{{selector: {selector}, operator: {operator}, value: x}}]");
            assert_eq!(holds(&yaml, Compat::default()), Ok(false), "{yaml}");
            assert_eq!(holds(&yaml, authorino), Ok(true), "{yaml}");
        }
        // Nothing is like nothing, and no item of no list.
        for (operator, lenient) in [("neq", false), ("excl", true)] {
            let yaml = format!("[{{selector: {selector}, operator: {operator}, value: ''}}]");
            assert_eq!(holds(&yaml, Compat::default()), Ok(false), "{yaml}");
            assert_eq!(holds(&yaml, authorino), Ok(lenient), "{yaml}");
        }
    }
}

#[test]
fn is_what_cannot_be_decided_a_fault() {
    assert!(holds("[{predicate: auth.identity.absent == 'x'}]", Compat::default()).is_err());
    assert!(holds("[{predicate: request.method}]", Compat::default()).is_err());
    assert!(holds("[{any: [{predicate: auth.identity.absent}, {patternRef: api}]}]", Compat::default()).is_err());
    // A selector that runs away is not "absent", whatever the knob says.
    let condition = compile(
        "[{selector: \"l.#.l.#.l.#.l.#.@dig:x\", operator: neq, value: x}]",
        Compat { missing_matches_neq: true },
    )
    .unwrap();
    let mut hostile = json!({"x": "y".repeat(200)});
    for _ in 0..4 {
        hostile = json!({"l": vec![hostile; 40], "x": "y"});
    }
    assert!(condition.holds(&hostile).is_err());
}

#[test]
fn does_a_bad_condition_say_where_it_stands() {
    for (yaml, path) in [
        ("[{}]", "when[0]"),
        ("[{selector: a}]", "when[0]"),
        ("[{selector: a, operator: is, value: b}]", "when[0].operator"),
        ("[{selector: a, operator: matches, value: '('}]", "when[0].value"),
        ("[{selector: '{a', operator: eq, value: b}]", "when[0].selector"),
        ("[{patternRef: none}]", "when[0].patternRef"),
        ("[{patternRef: loop}]", "when[0].patternRef"),
        ("[{predicate: 'a b'}]", "when[0].predicate"),
        ("[{predicate: 'true', patternRef: api}]", "when[0]"),
        ("[{all: [{any: [{patternRef: none}]}]}]", "when[0].all[0].any[0].patternRef"),
    ] {
        let problem = compile(yaml, Compat::default()).expect_err(yaml);
        assert_eq!(problem.path, path, "{yaml}: {}", problem.message);
    }
    assert!(serde_yaml_ng::from_str::<RawPattern>("{selector: a, operator: eq, valeu: b}").is_err());
    let deep = format!("{}{}", "[{all: ".repeat(20), "[]".to_owned() + &"}]".repeat(20));
    assert!(compile(&deep, Compat::default()).is_err());
}
