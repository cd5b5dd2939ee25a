//! What each kind of rule lets pass, and what it does when it cannot decide.

use super::*;
use serde_json::json;

fn open(name: &str, setting: Value) -> Result<Box<dyn Rule>, ConfigProblem> {
    let named = NamedPatterns::new();
    let path = format!("authorization.rule.{name}");
    let opening = Opening { named: &named, compat: Compat::default(), path: &path };
    (kind(name).expect("a rule of the table").open)(&setting, opening)
}

fn judge(rule: &dyn Rule, root: &Value) -> Result<Value, Denied> {
    futures_util::FutureExt::now_or_never(rule.judge(root)).expect("these rules wait for nothing")
}

fn root() -> Value {
    json!({
        "request": {"method": "GET", "path": "/v1/models", "headers": {"x-team": "red"}, "size": 10},
        "auth": {"identity": {"sub": "alice", "roles": ["admin", "dev"], "level": 3}},
    })
}

#[test]
fn is_the_table_sorted_and_does_each_line_find_its_rule() {
    let names: Vec<_> = RULES.iter().map(|kind| kind.name).collect();
    assert_eq!(names, ["cel", "opa", "patternMatching"]);
    assert!(kind("spicedb").is_none());
}

#[test]
fn what_does_each_rule_let_through() {
    let yes = |name, setting| assert!(judge(&*open(name, setting).unwrap(), &root()).is_ok(), "{name}");
    let no = |name, setting: Value| {
        let verdict = judge(&*open(name, setting.clone()).unwrap(), &root());
        assert_eq!(verdict, Err(Denied::unauthorized()), "{name} {setting}");
    };
    let fault = |name, setting: Value| {
        let verdict = judge(&*open(name, setting.clone()).unwrap(), &root());
        assert!(verdict.is_err_and(|denied| denied.fault), "{name} {setting}");
    };
    let roles = |value| json!({"patterns": [{"selector": "auth.identity.roles", "operator": "incl", "value": value}]});
    yes("patternMatching", roles("admin"));
    no("patternMatching", roles("root"));
    yes("cel", json!({"predicate": "request.method == 'GET' && 'admin' in auth.identity.roles"}));
    no("cel", json!({"predicate": "auth.identity.level > 3"}));
    fault("cel", json!({"predicate": "auth.identity.absent == 'x'"}));
    yes("opa", json!({"rego": "allow { input.request.method == \"GET\"; input.auth.identity.roles[_] == \"admin\" }"}));
    no("opa", json!({"rego": "allow { input.request.method == \"PUT\" }"}));
    no("opa", json!({"rego": "other = true"}));
    no("opa", json!({"rego": "allow = \"yes\""}));
    yes("opa", json!({"version": "v1", "rego": "import rego.v1\nallow if { \"dev\" in input.auth.identity.roles }"}));
    yes("opa", json!({"rego": "package mine\ndefault allow = false\nallow { input.request.size == 10 }"}));
    // Where there is no list, nothing is found in it.
    let none = "bad := input.auth.metadata.list[_].n != 3\nallow if not bad";
    yes("opa", json!({"version": "v1", "rego": none}));
    // Two rules that give `allow` two values.
    fault("opa", json!({"rego": "allow = true { input.request }\nallow = false { input.auth }"}));
}

#[test]
fn are_the_other_values_of_a_policy_told_when_asked_for() {
    let rego = "allow { input.request }\nteam = t { t := input.request.headers[\"x-team\"] }\nabsent { false }";
    let rule = open("opa", json!({"rego": rego, "allValues": true})).unwrap();
    assert_eq!(judge(&*rule, &root()), Ok(json!({"allow": true, "team": "red"})));
    let rule = open("opa", json!({"rego": rego})).unwrap();
    assert_eq!(judge(&*rule, &root()), Ok(json!({"allow": true})));
}

#[test]
fn does_one_request_leave_nothing_for_the_next() {
    let rule = open("opa", json!({"rego": "allow { input.request.method == \"GET\" }", "allValues": true})).unwrap();
    for _ in 0..3 {
        assert!(judge(&*rule, &root()).is_ok());
        assert_eq!(judge(&*rule, &json!({"request": {"method": "PUT"}})), Err(Denied::unauthorized()));
        assert_eq!(judge(&*rule, &json!({})), Err(Denied::unauthorized()));
    }
}

#[test]
fn is_a_policy_that_takes_too_long_stopped() {
    let rego = "allow { n := numbers.range(1, 2000); m := numbers.range(1, 2000); n[i] * m[j] == -1; input.request }";
    let rule = Rego::compile(rego, RegoVersion::V0, false);
    // Said when it is loaded, since it is evaluated then.
    assert!(rule.is_err_and(|problem| problem.to_string().contains("time limit")));
    let rego = "allow { n := input.list; n[i] * n[j] == -1 }";
    let rule = Rego::compile(rego, RegoVersion::V0, false).unwrap();
    let list: Vec<u32> = (0..3000).collect();
    let verdict = rule.evaluate(&json!({"list": list}));
    assert_eq!(verdict, Err(fault_of("it takes too long")));
    assert_eq!(rule.evaluate(&json!({"list": [1]})), Err(Denied::unauthorized()));
}

fn fault_of(why: &str) -> Denied {
    Denied { words: format!("the Rego policy could not be evaluated: {why}"), fault: true }
}

#[test]
fn does_a_bad_setting_say_where_it_stands() {
    for (name, setting, path) in [
        ("patternMatching", json!({}), ""),
        (
            "patternMatching",
            json!({"patterns": [{"selector": "a", "operator": "is", "value": ""}]}),
            ".patterns[0].operator",
        ),
        ("cel", json!({"predicate": "request."}), ".predicate"),
        ("cel", json!({"expression": "true"}), ""),
        ("opa", json!({"rego": "allow {"}), ".rego"),
        ("opa", json!({"rego": "allow { http.send({\"url\": \"http://a\"}).status_code == 200 }"}), ".rego"),
        // Else `allow` would be a rule of its own, and always hold.
        ("opa", json!({"rego": "allow if input.request.method == \"PUT\""}), ".rego"),
        ("opa", json!({"rego": "allow if { input.request.method == \"PUT\" }", "version": "v0"}), ".rego"),
        ("opa", json!({"rego": "allow { unknown_function(1) }"}), ".rego"),
        ("opa", json!({"rego": "allow { true }", "version": "v2"}), ""),
    ] {
        let problem = open(name, setting.clone()).err().unwrap_or_else(|| panic!("{setting} was taken"));
        assert_eq!(problem.path, format!("authorization.rule.{name}{path}"), "{setting}: {}", problem.message);
    }
}
