//! The ways to prove who one is, as `/config_dump` shows them: no secret is among the settings.

use super::{ApiKey, Audiences, Jwt, Keys, Method};
use crate::auth::credential::Location;
use serde_json::{Map, Value, json};

impl Method {
    pub(in crate::config) fn dump(&self) -> Value {
        match self {
            Method::ApiKey(ApiKey { keys_file, credentials }) => {
                json!({"api_key": {"keys_file": keys_file, "credentials": shown(credentials)}})
            }
            Method::Jwt(jwt) => json!({"jwt": jwt.dump()}),
            Method::Anonymous => json!({"anonymous": {}}),
            Method::Mtls => json!({"mtls": {}}),
            Method::TokenReview(review) => json!({"token_review": {
                "audiences": match &review.audiences {
                    Audiences::Host => json!("host"),
                    Audiences::Server => json!("server"),
                    Audiences::These(these) => json!(these),
                },
                "allow_ttl_seconds": review.limits.good_seconds,
                "deny_ttl_seconds": review.limits.bad_seconds,
                "questions_max": review.limits.asking_max,
                "questions_per_second": review.limits.asked_per_second,
                "wait_max_seconds": review.limits.wait_max.as_secs_f64(),
                "kubernetes": review.kubernetes.dump(),
            }}),
        }
    }
}

fn shown(location: &Location) -> Value {
    match location {
        Location::Bearer => json!({"bearer": {}}),
        Location::Header(name, prefix) => json!({"header": {"name": name.as_str(), "prefix": prefix}}),
        Location::Parameter(name) => json!({"query": name}),
        Location::Cookie(name) => json!({"cookie": name}),
    }
}

impl Jwt {
    fn dump(&self) -> Value {
        let mut dump = Map::new();
        let (place, fetched) = match &self.keys {
            Keys::File(path) => (("jwks_file", json!(path)), None),
            Keys::Url(url, fetched) => (("jwks_url", json!(url)), Some(fetched)),
            Keys::Issuer(url, fetched) => (("issuer_url", json!(url)), Some(fetched)),
        };
        let mut add = |name: &str, value: Value| drop(dump.insert(name.into(), value));
        add(place.0, place.1);
        add("issuer", json!(self.issuer));
        add("audiences", json!(self.audiences));
        add("algorithms", json!(self.algorithms));
        add("typ", json!(self.types));
        add("required_claims", json!(self.required_claims));
        add("leeway_seconds", json!(self.leeway.as_secs_f64()));
        add("credentials", shown(&self.credentials));
        if let Some(fetched) = fetched {
            add("timeout_seconds", json!(fetched.timeout.as_secs_f64()));
            add("refresh_seconds", json!(fetched.refresh.as_secs_f64()));
            add("authorities", json!(fetched.authorities));
            add("keys_cache", json!(fetched.copy));
        }
        Value::Object(dump)
    }
}
