# Sourced by `run`: AuthConfigs and the Secrets they refer to, followed in the API by `outrider authorize`.

check_port=$(free_port) authorizer_admin=$(free_port)
policies=/apis/authorino.kuadrant.io/v1beta3/namespaces/models/authconfigs
secrets=/api/v1/namespaces/models/secrets
post $accounts '{"metadata": {"name": "authorizer"}}'
post $rbac/namespaces/models/roles '{"metadata": {"name": "authorizer"}, "rules": [
    {"apiGroups": ["authorino.kuadrant.io"], "resources": ["authconfigs"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]}'
post $rbac/namespaces/models/rolebindings '{"metadata": {"name": "authorizer"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "authorizer"},
    "subjects": [{"kind": "ServiceAccount", "name": "authorizer", "namespace": "models"}]}'
token authorizer "$api" > "$work/authorizer"
cat > "$work/authorize.yaml" <<CONF
admin: 127.0.0.1:$authorizer_admin
kubernetes: {server: "$api", authorities: ca.pem, token_file: authorizer}
auth:
  authconfig:
    namespace: models
    kubernetes: {}
    secrets: {kubernetes: {label_selector: authorino.kuadrant.io/managed-by=authorino}}
audit: {to: file, path: audit.jsonl}
ext_authz_server: {http: "127.0.0.1:$check_port"}
CONF
"$outrider" authorize --config "$work/authorize.yaml" > "$work/authorizer.log" 2>&1 &
running[authorizer]=$!

merge() {
    curl -sf -o /dev/null --cacert "$work/ca.pem" --cert "$work/admin.pem" --key "$work/admin.key" -X PATCH \
        -H 'content-type: application/merge-patch+json' "$api$1" -d "$2" || fail "the API server does not take: $2"
}
# The status of a question about a host, with an API key.
check() { curl -s -o "$work/body" -w '%{http_code}' --max-time 5 -H "host: $1" ${2:+-H "authorization: APIKEY $2"} "http://127.0.0.1:$check_port/check" || true; }
becomes() { for _ in $(seq 150); do if [ "$(check "$2" "${3:-}")" = "$1" ]; then return; fi; sleep 0.1; done; fail "$4: $(check "$2" "${3:-}"), not $1"; }
is_so() { [ "$(check "$2" "${3:-}")" = "$1" ] || fail "$4: $(check "$2" "${3:-}"), not $1"; }
good() { curl -s "http://127.0.0.1:$authorizer_admin/metrics" | sed -n 's/^outrider_authconfig_good //p'; }

until_so 10 "the authorizer does not start" curl -sf "http://127.0.0.1:$authorizer_admin/healthz"
curl -s "http://127.0.0.1:$authorizer_admin/readyz" | grep -q 'not told yet' || fail "it is ready without policies"
is_so 503 keys.test "" "before it is known which policies there are"
post /apis/apiextensions.k8s.io/v1/customresourcedefinitions '{"metadata": {"name": "authconfigs.authorino.kuadrant.io"},
    "spec": {"group": "authorino.kuadrant.io", "scope": "Namespaced", "names": {"kind": "AuthConfig", "plural": "authconfigs"},
        "versions": [{"name": "v1beta3", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}'
until_so 30 "it is not ready once the CRD is there" curl -sf "http://127.0.0.1:$authorizer_admin/readyz"
is_so 404 keys.test "" "without any policy"
say "an authorizer is ready once the API has told its policies, and not before"

# An AuthConfig or a Secret in one line each: name, and the rest of the object.
policy() { echo "{\"apiVersion\": \"authorino.kuadrant.io/v1beta3\", \"kind\": \"AuthConfig\", \"metadata\": {\"name\": \"$1\"}, \"spec\": $2}"; }
secret() { echo "{\"metadata\": {\"name\": \"$1\", \"labels\": {\"authorino.kuadrant.io/managed-by\": \"authorino\", \"group\": \"friends\"}}, \"stringData\": $2}"; }
friends='"hosts": ["keys.test"], "authentication": {"friends": {"metrics": true, "apiKey": {"selector": {"matchLabels": {"group": "friends"}}},
    "credentials": {"authorizationHeader": {"prefix": "APIKEY"}}}}'
post $policies "$(policy keys "{$friends}")"
becomes 401 keys.test one "a new policy"
post $secrets "$(secret ada '{"api_key": "one"}')"
becomes 200 keys.test one "a new Secret"
merge $secrets/ada '{"stringData": {"api_key": "two"}}'
becomes 200 keys.test two "a changed Secret"
is_so 401 keys.test one "the key before"
merge $policies/keys '{"spec": {"authorization": {"typo": {"opaa": {}}}}}'
for _ in $(seq 100); do [ "$(good)" = 0 ] && break; sleep 0.1; done
[ "$(good)" = 0 ] || fail "a bad policy is not told of"
grep -q 'AuthConfig models/keys.*spec.authorization.typo' "$work/authorizer.log" || fail "the log does not say what is wrong"
is_so 200 keys.test two "under a policy that is bad now, the old one"
kube DELETE $secrets/ada > /dev/null
becomes 401 keys.test two "a deleted Secret, even under a bad policy"
series='auth_server_evaluator_denied{authconfig="keys",evaluator_name="friends",evaluator_type="IDENTITY_APIKEY",namespace="models"}'
[ "$(curl -s "http://127.0.0.1:$authorizer_admin/metrics" | grep -F "$series" | sed 's/.* //')" -gt 0 ] || fail "denials are not counted"
say "a Secret created, changed, deleted: a key accepted, another, none; a bad policy leaves the old one in force"

openssl ecparam -name prime256v1 -genkey -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt > "$work/wristband.pem"
post $secrets "$(secret signing "{\"key.pem\": $(python3 -c 'import json, sys; print(json.dumps(open(sys.argv[1]).read()))' "$work/wristband.pem")}")"
post $secrets "$(secret ada '{"api_key": "three"}')"
kube DELETE $policies/keys > /dev/null
becomes 404 keys.test three "a deleted policy"
post $policies "$(policy keys "{$friends, \"response\": {\"success\": {\"headers\": {\"band\": {\"wristband\": {
    \"issuer\": \"http://127.0.0.1:$check_port/models/keys/band\", \"signingKeyRefs\": [{\"name\": \"signing\", \"algorithm\": \"ES256\"}]}}}}}}")"
becomes 200 keys.test three "a policy with a wristband"
curl -s -D "$work/head" -o /dev/null -H 'host: keys.test' -H 'authorization: APIKEY three' "http://127.0.0.1:$check_port/check"
python3 - "$work/head" "http://127.0.0.1:$check_port/models/keys/band" "http://127.0.0.1:$authorizer_admin/models/keys/band" <<'PY'
import base64, json, sys, urllib.request
head, *places = sys.argv[1:]
band = [line.split(": ", 1)[1].strip() for line in open(head) if line.lower().startswith("band:")][0]
decoded = [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in band.split(".")[:2]]
get = lambda url: json.load(urllib.request.urlopen(url))
for place in places:
    configuration = get(place + "/.well-known/openid-configuration")
    assert configuration["issuer"] == decoded[1]["iss"] == places[0], configuration
    keys = get(place + configuration["jwks_uri"].removeprefix(places[0]))["keys"]
    assert keys == get(place + "/.well-known/jwks.json")["keys"]
    assert decoded[0]["kid"] in [key["kid"] for key in keys], keys
PY
say "a wristband's issuer and keys are where its verifiers look"

kill -STOP "${running[apiserver]}"
is_so 200 keys.test three "while the API server is silent"
kill -CONT "${running[apiserver]}"
until_so 15 "the API server does not come back" kube GET /readyz
kube DELETE $secrets/ada > /dev/null
becomes 401 keys.test three "a Secret deleted after the silence"
python3 - "$work/audit.jsonl" <<'PY'
import json, sys
text = open(sys.argv[1]).read()
assert not any(f'"{key}"' in text or f" {key}" in text for key in ("one", "two", "three")), "a key in the audit trail"
lines = [json.loads(line) for line in text.splitlines()]
of = lambda outcome: [line for line in lines if line["kind"] == "audit" and line["outcome"] == outcome]
assert any(line["policy"] == "models/keys" and line["subject"] == "ada" and line["known_by"] == "friends" for line in of("allowed"))
assert all(line["reason"] for line in of("unauthenticated")) and of("unauthenticated") and of("unknown_host"), lines
PY
kube GET $policies/keys | grep -q '"status"' && fail "somebody wrote a status"
stop authorizer
say "while the API server is silent, what it told last is in force; each decision is in the audit trail, and no key"
