//! Sources asked of real servers: whose answers are taken, and what callers and servers cannot bring about.

use super::*;
use crate::auth::credential::Location;
use crate::auth::endpoint::testing::{Ground, Server, json, status, words};
use crate::auth::site::IdentitySource;
use ::http::Request;
use bytes::Bytes;
use serde_json::json as value;

const SECRETS: &[(&str, &str)] = &[("ns/uma/clientID", "me"), ("ns/uma/clientSecret", "secret")];

fn open(name: &str, settings: Value, ground: &Ground) -> Result<Box<dyn Source>, String> {
    let kind = SOURCES.iter().find(|kind| kind.name == name).unwrap();
    let mut problems = Vec::new();
    (kind.open)(settings, "metadata.m", &ground.site(), &mut problems).ok_or_else(|| words(&problems))
}

fn identity(issuer: Option<&str>, location: Location, access_token: bool) -> IdentitySource {
    IdentitySource { issuer: issuer.map(str::to_owned), location, access_token }
}

/// The origin by which a server was asked.
fn origin(request: &Request<Bytes>) -> String {
    format!("http://{}", request.headers()["host"].to_str().unwrap())
}

#[test]
fn is_the_table_sorted() {
    assert!(SOURCES.iter().map(|kind| kind.name).is_sorted());
}

#[tokio::test]
async fn does_http_bring_what_the_server_says() {
    let server = Server::start(|request| json(value!({"path": request.uri().path()}))).await;
    let ground = Ground::new(SECRETS);
    let source = open("http", value!({"url": format!("{}/x/{{request.method}}", server.origin)}), &ground).unwrap();
    assert_eq!(source.fetch(&value!({"request": {"method": "GET"}})).await, Ok(value!({"path": "/x/GET"})));
    let error = open("http", value!({"uri": "x"}), &ground).err().unwrap();
    assert!(error.starts_with("metadata.m: unknown field `uri`"), "{error}");
}

#[tokio::test]
async fn whose_user_info_is_believed() {
    let server = Server::start(|request| match request.uri().path() {
        "/good/.well-known/openid-configuration" => json(value!({
            "issuer": format!("{}/good", origin(request)), "userinfo_endpoint": format!("{}/me", origin(request)),
        })),
        "/liar/.well-known/openid-configuration" => json(value!({
            "issuer": format!("{}/good", origin(request)), "userinfo_endpoint": format!("{}/me", origin(request)),
        })),
        "/me" if request.headers().get("authorization").is_some_and(|shown| shown == "Bearer tok") => {
            json(value!({"sub": "ann", "email": "ann@example.com"}))
        }
        _ => status(401),
    })
    .await;
    let (good, liar) = (format!("{}/good", server.origin), format!("{}/liar", server.origin));
    let mut ground = Ground::new(SECRETS);
    ground.identities = [
        ("good".to_owned(), identity(Some(&good), Location::Bearer, true)),
        ("liar".to_owned(), identity(Some(&liar), Location::Bearer, true)),
        ("cookie".to_owned(), identity(None, Location::Cookie("t".into()), true)),
        ("keys".to_owned(), identity(None, Location::Parameter("key".into()), false)),
    ]
    .into();
    let root = |iss: &str, sub: &str, headers: Value| {
        value!({
            "request": {"headers": headers, "query": "key=k"},
            "auth": {"identity": {"iss": iss, "sub": sub}},
        })
    };
    let bearer = value!({"authorization": "Bearer tok"});
    let by_source = |name: &str| open("userInfo", value!({"identitySource": name}), &ground).unwrap();
    let source = by_source("good");
    for _ in 0..3 {
        let claims = source.fetch(&root(&good, "ann", bearer.clone())).await.unwrap();
        assert_eq!(claims["email"], "ann@example.com");
    }
    let discoveries = server.seen().iter().filter(|seen| seen.uri().path().contains("well-known")).count();
    assert_eq!(discoveries, 1);
    let given = open("userInfo", value!({"userInfoUrl": format!("{}/me", server.origin)}), &ground).unwrap();
    let cookie = value!({"cookie": "a=b; t=tok"});
    assert!(given.fetch(&root("any", "ann", cookie.clone())).await.is_ok());
    let nameless = value!({"request": {"headers": cookie}, "auth": {"identity": {"active": true}}});
    assert!(given.fetch(&nameless).await.is_ok(), "an introspection may name no subject");

    let both = value!({"cookie": "t=tok", "authorization": "Bearer tok"});
    let cases = [
        (&source, root(&good, "bob", bearer.clone()), "another subject"),
        (&source, value!({"request": {"headers": bearer}, "auth": {"identity": {"iss": good}}}), "another subject"),
        (&source, root("https://other", "ann", bearer.clone()), "not known by this issuer"),
        (&source, root(&good, "ann", value!({})), "no access token"),
        (&source, root(&good, "ann", value!({"authorization": "Bearer other"})), "answered 401"),
        (&source, root(&good, "ann", value!({"authorization": "Bearer a\nb"})), "no header"),
        (&given, root(&good, "ann", both), "more than one access token"),
    ];
    for (source, root, expected) in &cases {
        let error = source.fetch(root).await.unwrap_err();
        assert!(error.contains(expected) || *expected == "no header", "{error}: {expected}");
    }
    let error = by_source("liar").fetch(&root(&liar, "ann", bearer.clone())).await.unwrap_err();
    assert!(error.contains("another issuer's"), "{error}");
    for (settings, expected) in [
        (value!({"identitySource": "no"}), "metadata.m.identitySource: \"no\" is no authentication"),
        (value!({"identitySource": "keys"}), "metadata.m.identitySource: \"keys\" has no jwt.issuerUrl"),
        (value!({}), "metadata.m.identitySource: or userInfoUrl is needed"),
        (value!({"userInfoUrl": "x"}), "metadata.m.userInfoUrl: is no URL"),
    ] {
        let error = open("userInfo", settings, &ground).err().unwrap();
        assert!(error.starts_with(expected), "{error}");
    }
    ground.identities.retain(|_, source| !source.access_token);
    assert!(open("userInfo", value!({"userInfoUrl": "http://h/"}), &ground).err().unwrap().contains("no jwt"));
}

#[tokio::test]
async fn which_resources_does_uma_know() {
    let server = Server::start(|request| {
        let origin = origin(request);
        let bearer = request.headers().get("authorization").is_some_and(|shown| shown == "Bearer pat");
        match (request.uri().path(), request.uri().query()) {
            ("/realm/.well-known/uma2-configuration", _) => json(value!({
                "issuer": format!("{origin}/realm"),
                "token_endpoint": format!("{origin}/token"),
                "resource_registration_endpoint": format!("{origin}/resources/"),
            })),
            ("/token", _) => json(value!({"access_token": "pat", "expires_in": 60})),
            ("/resources", Some("uri=%2Fa%3Fb%3Dc")) if bearer => json(value!(["1", "gone", "x/../y"])),
            ("/resources", _) if bearer => json(value!(vec!["1"; RESOURCES + 1])),
            ("/resources/1", None) if bearer => json(value!({"name": "one"})),
            ("/resources/x%2F..%2Fy", None) if bearer => json(value!({"name": "two"})),
            _ => status(404),
        }
    })
    .await;
    const RESOURCES: usize = 64;
    let ground = Ground::new(SECRETS);
    let settings = value!({"endpoint": format!("{}/realm", server.origin), "credentialsRef": {"name": "uma"}});
    let source = open("uma", settings, &ground).unwrap();
    for _ in 0..2 {
        let found = source.fetch(&value!({"request": {"path": "/a?b=c"}})).await;
        assert_eq!(found, Ok(value!([{"name": "one"}, {"name": "two"}])));
    }
    assert_eq!(server.seen().iter().filter(|seen| seen.uri().path() == "/token").count(), 1);
    let error = source.fetch(&value!({"request": {"path": "/many"}})).await.unwrap_err();
    assert_eq!(error, "more than 64 resources have this path");
    let settings = value!({"endpoint": "http://h/", "credentialsRef": {"name": "no"}});
    let error = open("uma", settings, &ground).err().unwrap();
    assert!(error.starts_with("metadata.m.credentialsRef: key \"clientID\" of the Secret ns/no"), "{error}");
}
