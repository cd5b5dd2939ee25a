//! What is really sent to real servers, what comes of their answers, and what no caller can make of a question.

use super::testing::{Ground, Server, json, status, words, yaml};
use super::*;
use crate::auth::site::HostPattern;
use crate::fetch::Trust;
use proptest::prelude::*;
use serde_json::json as value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const SECRETS: &[(&str, &str)] =
    &[("ns/talker/password", "s3cr3t"), ("ns/oauth/secret", "cl:ent s&cret"), ("ns/broken/line", "a\nb")];

fn compiled(ground: &Ground, text: &str) -> Result<Endpoint, String> {
    let mut problems = Vec::new();
    let endpoint = yaml::<RawHttpEndpoint>(text).compile("http", &ground.site(), &mut problems);
    endpoint.ok_or_else(|| words(&problems))
}

fn root() -> Value {
    value!({
        "request": {"path": "/a/b?c=d&e", "method": "POST", "headers": {"x-id": "../admin", "x-line": "a\r\nevil: 1"}},
        "auth": {"identity": {"sub": "J\u{fc}rgen", "n": 7, "groups": ["a", "b"]}},
    })
}

#[tokio::test]
async fn what_does_a_server_see() {
    let server = Server::start(|_| json(value!({"ok": true}))).await;
    let ground = Ground::new(SECRETS);
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        ("url: O/x?p={request.path}&m={request.method}", "GET", "/x?p=%2Fa%2Fb%3Fc%3Dd%26e&m=POST", &[], ""),
        ("url: O/u/{auth.identity.sub}/{auth.identity.gone}", "GET", "/u/J%C3%BCrgen/", &[], ""),
        ("urlExpression: \"'O/x?p=' + auth.identity.sub\"", "GET", "/x?p=J%C3%BCrgen", &[], ""),
        (
            "{url: O/x, method: POST, bodyParameters: {b: {selector: auth.identity.groups}, a: {value: 'x y&z'}}}",
            "POST",
            "/x",
            &[("content-type", "application/x-www-form-urlencoded")],
            "a=x+y%26z&b=%5B%22a%22%2C%22b%22%5D",
        ),
        (
            "{url: O/x, method: POST, contentType: application/json, bodyParameters: {n: {selector: auth.identity.n}}}",
            "POST",
            "/x",
            &[("content-type", "application/json")],
            r#"{"n":7}"#,
        ),
        (
            "{url: O/x, method: POST, contentType: application/json, body: {selector: auth.identity}}",
            "POST",
            "/x",
            &[("content-type", "application/json")],
            "{\"sub\":\"J\u{fc}rgen\",\"n\":7,\"groups\":[\"a\",\"b\"]}",
        ),
        (
            "{url: O/x, headers: {X-N: {selector: auth.identity.n}, x-a: {value: b}}, sharedSecretRef: {name: talker, key: password}}",
            "GET",
            "/x",
            &[("x-n", "7"), ("x-a", "b"), ("authorization", "Bearer s3cr3t")],
            "",
        ),
        (
            "{url: O/x, sharedSecretRef: {name: talker, key: password}, credentials: {authorizationHeader: {prefix: KEY}}}",
            "GET",
            "/x",
            &[("authorization", "KEY s3cr3t")],
            "",
        ),
        (
            "{url: O/x, sharedSecretRef: {name: talker, key: password}, credentials: {customHeader: {name: X-Key}}}",
            "GET",
            "/x",
            &[("x-key", "s3cr3t")],
            "",
        ),
        (
            "{url: O/x, sharedSecretRef: {name: talker, key: password}, credentials: {cookie: {name: k}}}",
            "GET",
            "/x",
            &[("cookie", "k=s3cr3t")],
            "",
        ),
        (
            "{url: 'O/x?a=b', sharedSecretRef: {name: talker, key: password}, credentials: {queryString: {name: k}}}",
            "GET",
            "/x?a=b&k=s3cr3t",
            &[],
            "",
        ),
    ];
    for (text, method, target, headers, body) in cases {
        let endpoint = compiled(&ground, &text.replace("O/", &format!("{}/", server.origin))).expect(text);
        assert_eq!(endpoint.call(&root()).await, Ok(value!({"ok": true})), "{text}");
        let seen = server.seen();
        assert_eq!(seen.len(), 1, "{text}");
        let seen = &seen[0];
        assert_eq!((seen.method().as_str(), seen.uri().to_string().as_str()), (*method, *target), "{text}");
        assert_eq!(seen.body(), body, "{text}");
        for (name, value) in *headers {
            assert_eq!(seen.headers().get(*name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{text}: {name}");
        }
    }
}

#[tokio::test]
async fn what_becomes_of_an_answer() {
    let server = Server::start(|request| match request.uri().path() {
        "/text" => status(200),
        "/array" => json(value!([1, 2])),
        "/many" => {
            let mut answer = json(value!({"a": 1}));
            *answer.body_mut() = "{\"a\":1}\n{\"a\":2}".into();
            answer
        }
        "/empty" => Response::builder().header("content-type", "application/json").body(Bytes::new()).unwrap(),
        "/garbage" => Response::builder().header("content-type", "application/json").body("{".into()).unwrap(),
        "/huge" => Response::new(vec![b'x'; ANSWER_BYTES_MAX + 1].into()),
        "/moved" => Response::builder().status(302).header("location", "/text").body(Bytes::new()).unwrap(),
        _ => status(404),
    })
    .await;
    let mut ground = Ground::new(SECRETS);
    let cases = [
        ("text", Ok(value!("words"))),
        ("array", Ok(value!([1, 2]))),
        ("many", Ok(value!([{"a": 1}, {"a": 2}]))),
        ("empty", Err("the answer is empty, and no JSON".to_owned())),
        ("garbage", Err("the answer is no JSON".to_owned())),
        ("huge", Err("the answer has more than 1048576 bytes".to_owned())),
        ("moved", Err("answered 302".to_owned())),
        ("gone", Err("answered 404".to_owned())),
    ];
    for (path, expected) in cases {
        let endpoint = compiled(&ground, &format!("url: {}/{path}", server.origin)).unwrap();
        assert_eq!(endpoint.call(&root()).await, expected, "{path}");
    }
    assert_eq!(server.seen().iter().filter(|seen| seen.uri().path() == "/text").count(), 1, "no redirect is followed");
    ground.any_status = true;
    let endpoint = compiled(&ground, &format!("url: {}/gone", server.origin)).unwrap();
    assert_eq!(endpoint.call(&root()).await, Ok(value!("words")));
}

#[tokio::test]
async fn does_a_silent_server_end_in_an_error() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let ground = Ground::new(SECRETS);
    let endpoint = compiled(&ground, &format!("{{url: 'http://{address}/', timeout: 50}}")).unwrap();
    assert_eq!(endpoint.call(&root()).await, Err("no answer within 50 ms".into()));
    drop(silent);
    assert!(endpoint.call(&root()).await.is_err());
    for (given, expected) in [(None, 5), (Some(0), 300), (Some(7000), 7), (Some(u64::MAX), 300)] {
        assert_eq!(timeout(given), Duration::from_secs(expected));
    }
}

#[tokio::test]
async fn is_a_granted_token_reused_and_renewed() {
    let served = Arc::new(AtomicU32::new(0));
    let (count, refused) = (served.clone(), Arc::new(AtomicU32::new(0)));
    let refuse = refused.clone();
    let server = Server::start(move |request| match request.uri().path() {
        "/token" => {
            json(value!({"access_token": format!("t{}", count.fetch_add(1, Ordering::Relaxed)), "expires_in": 3600}))
        }
        "/brief" => {
            json(value!({"access_token": format!("t{}", count.fetch_add(1, Ordering::Relaxed)), "expires_in": 5}))
        }
        "/form" if request.headers().contains_key("authorization") => status(401),
        "/form" => json(value!({"access_token": "f"})),
        "/no" => Response::builder().status(400).body(r#"{"error":"invalid_client"}"#.into()).unwrap(),
        _ if refuse.swap(0, Ordering::Relaxed) == 1 => status(401),
        _ => json(value!({})),
    })
    .await;
    let ground = Ground::new(SECRETS);
    let endpoint = |path: &str, more: &str| {
        let oauth2 = format!(
            "{{tokenUrl: '{}/{path}', clientId: me, clientSecretRef: {{name: oauth, key: secret}}, scopes: [a, b]{more}}}",
            server.origin
        );
        compiled(&ground, &format!("{{url: '{}/x', oauth2: {oauth2}}}", server.origin)).unwrap()
    };
    let shown = |seen: &[Request<Bytes>]| -> Vec<String> {
        let questions = seen.iter().filter(|seen| seen.uri().path() == "/x");
        questions.map(|seen| seen.headers()["authorization"].to_str().unwrap().to_owned()).collect()
    };

    let kept = endpoint("token", ", extraParams: {audience: x}");
    for answer in futures_util::future::join_all((0..20).map(|_| kept.call(&Value::Null))).await {
        answer.unwrap();
    }
    let seen = server.seen();
    assert_eq!(shown(&seen), vec!["Bearer t0"; 20]);
    let tokens: Vec<_> = seen.iter().filter(|seen| seen.uri().path() == "/token").collect();
    assert_eq!(tokens.len(), 1, "one asks for all");
    assert_eq!(tokens[0].body(), "grant_type=client_credentials&scope=a+b&audience=x");
    assert_eq!(tokens[0].headers()["authorization"], "Basic bWU6Y2wlM0FlbnQrcyUyNmNyZXQ=");

    refused.store(1, Ordering::Relaxed);
    assert_eq!(kept.call(&Value::Null).await, Err("answered 401".into()));
    kept.call(&Value::Null).await.unwrap();
    assert_eq!(shown(&server.seen()), ["Bearer t0", "Bearer t1"], "a refused token is not shown again");

    for (path, more) in [("brief", ""), ("token", ", cache: false")] {
        let endpoint = endpoint(path, more);
        endpoint.call(&Value::Null).await.unwrap();
        endpoint.call(&Value::Null).await.unwrap();
        let shown = shown(&server.seen());
        assert_ne!(shown[0], shown[1], "{path}");
    }

    let form = endpoint("form", "");
    form.call(&Value::Null).await.unwrap();
    let seen = server.seen();
    assert_eq!(shown(&seen), ["Bearer f"]);
    assert_eq!(seen[1].body(), "grant_type=client_credentials&scope=a+b&client_id=me&client_secret=cl%3Aent+s%26cret");
    let error = endpoint("no", "").call(&Value::Null).await.unwrap_err();
    assert_eq!(error, "the token server answered 400: invalid_client");
}

#[tokio::test]
async fn is_only_a_known_authority_believed() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, certificate.pem()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(json(value!({"tls": true})).map(http_body_util::Full::new))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    let _task = tokio_util::task::AbortOnDropHandle::new(task);
    let mut ground = Ground::new(SECRETS);
    let text = format!("url: https://localhost:{port}/");
    ground.client = Client::new(Trust { authorities: Some(authorities), identity: None });
    assert_eq!(compiled(&ground, &text).unwrap().call(&root()).await, Ok(value!({"tls": true})));
    let other = rcgen::KeyPair::generate().unwrap();
    let stranger = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&other).unwrap();
    let strangers = folder.path().join("other.pem");
    std::fs::write(&strangers, stranger.pem()).unwrap();
    ground.client = Client::new(Trust { authorities: Some(strangers), identity: None });
    let error = compiled(&ground, &text).unwrap().call(&root()).await.unwrap_err();
    assert!(error.contains("TLS"), "{error}");
}

#[test]
fn which_settings_are_refused_and_with_what_words() {
    let ground = Ground::new(SECRETS);
    for (text, expected) in [
        ("{}", "http.url: is needed"),
        ("url: ftp://h/", "http.url: is no URL"),
        ("url: /x", "http.url: is no URL"),
        ("url: http://u:p@h/", "http.url: has a name or password"),
        ("url: 'http://h/#x'", "http.url: has a fragment"),
        ("url: 'http://h/{x'", "http.url: a placeholder is not closed"),
        ("url: 'http://h{request.path}'", "http.url: a request must not choose the host"),
        ("url: 'http://{request.host}/'", "http.url: a request must not choose the host"),
        ("url: '{auth.identity.url}'", "http.url: a request must not choose the host"),
        ("urlExpression: request.url", "http.urlExpression: a request must not choose the host"),
        ("{url: 'http://h/', method: TRACE}", "http.method: \"TRACE\" asks nothing"),
        ("{url: 'http://h/', method: POST, contentType: text/xml}", "http.contentType: \"text/xml\" is neither"),
        ("{url: 'http://h/', headers: {Host: {value: x}}}", "http.headers.Host: is set by the connection"),
        ("{url: 'http://h/', headers: {'a b': {value: x}}}", "http.headers.a b: names no header"),
        ("{url: 'http://h/', headers: {a: {value: x}, A: {value: x}}}", "http.headers.a: is there twice"),
        (
            "{url: 'http://h/', sharedSecretRef: {name: no, key: k}}",
            "http.sharedSecretRef: key \"k\" of the Secret ns/no",
        ),
        ("{url: 'http://h/', sharedSecretRef: {name: broken, key: line}}", "holds a line break"),
        (
            "{url: 'http://h/', headers: {authorization: {value: x}}, sharedSecretRef: {name: talker, key: password}}",
            "http.headers.authorization: is where the credential goes",
        ),
        (
            "{url: 'http://h/', sharedSecretRef: {name: talker, key: password}, credentials: {cookie: {name: 'a;b'}}}",
            "http.credentials: \"a;b\" names no cookie",
        ),
        (
            "{url: 'http://h/', oauth2: {tokenUrl: x, clientId: c, clientSecretRef: {name: oauth, key: secret}}}",
            "http.oauth2.tokenUrl: is no URL",
        ),
    ] {
        let error = compiled(&ground, text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn what_can_a_request_make_of_an_url() {
    let mut ground = Ground::new(SECRETS);
    let sent = |ground: &Ground, text: &str| {
        let question = compiled(ground, text).unwrap().question(&root());
        question.map(|question| question.request().uri().to_string())
    };
    assert_eq!(sent(&ground, "url: 'http://h/{request.headers.x-id}'"), Ok("http://h/..%2Fadmin".into()));
    let error = sent(&ground, "url: 'http://h/{request.headers.x-line}'").unwrap_err();
    assert_eq!(error, "a value for the URL has a control character");
    for text in ["url: 'http://h/a/.{auth.no}./b'", "url: 'http://h/%2e%2E'"] {
        assert!(sent(&ground, text).unwrap_err().contains("dots"), "{text}");
    }
    assert!(sent(&ground, "{url: 'http://h/', headers: {a: {selector: request.headers.x-line}}}").is_err());
    let error = sent(&ground, "urlExpression: \"'http://h' + request.headers['x-id']\"").unwrap_err();
    assert_eq!(error, "the URL leads to a host that it must not");

    ground.hosts = vec![HostPattern::parse("*.internal").unwrap()];
    let chosen = |host: &str| {
        let endpoint = compiled(&ground, "url: 'http://{h}/x/{p}'").unwrap();
        let question = endpoint.question(&value!({"h": host, "p": "a/b"}));
        question.map(|question| question.request().uri().to_string())
    };
    assert_eq!(chosen("a.internal:8080"), Ok("http://a.internal:8080/x/a%2Fb".into()));
    for host in ["evil", "a.internal@evil", "evil/.internal", "evil?.internal", "evil#.internal", "evil\\.internal", ""]
    {
        assert!(chosen(host).is_err(), "{host}");
    }
}

proptest! {
    #[test]
    fn does_no_request_choose_the_server_or_add_a_header(
        a in any::<String>(), b in "[a-z:/?#@%.\\\\\r\n ]{0,20}", c in any::<i64>(),
    ) {
        let ground = Ground::new(SECRETS);
        let endpoint = compiled(
            &ground,
            "{url: 'http://h.example:81/p/{a}/q{b}?x={b}&y={a}&z={c}', method: POST, headers: {x-a: {selector: a}, x-b: {selector: b}}, bodyParameters: {a: {selector: a}, b: {selector: b}}}",
        ).unwrap();
        if let Ok(question) = endpoint.question(&value!({"a": a, "b": b, "c": c})) {
            let request = question.request();
            prop_assert_eq!(request.uri().authority().unwrap().as_str(), "h.example:81");
            prop_assert_eq!(request.uri().scheme_str(), Some("http"));
            let path: Vec<_> = request.uri().path().split('/').collect();
            prop_assert_eq!(path.len(), 4);
            prop_assert_eq!((path[0], path[1]), ("", "p"));
            prop_assert!(path[3].starts_with('q'));
            let query: Vec<_> = request.uri().query().unwrap().split('&').collect();
            prop_assert_eq!(query.len(), 3);
            prop_assert!(query.iter().zip(["x=", "y=", "z="]).all(|(pair, name)| pair.starts_with(name)));
            prop_assert_eq!(request.headers().len(), 3);
            prop_assert_eq!(request.body().iter().filter(|byte| **byte == b'&').count(), 1);
        }
    }

    #[test]
    fn does_no_expression_lead_where_its_author_did_not(a in any::<String>(), b in "[a-z:/?#@%.\\\\ ]{0,20}") {
        let ground = Ground::new(SECRETS);
        let endpoint = compiled(&ground, "urlExpression: \"'http://h.example' + request.a + request.b\"").unwrap();
        for root in [value!({"request": {"a": a, "b": b}}), value!({"request": {"a": "/", "b": b}}), value!({"request": {"a": "/?", "b": b}})] {
            if let Ok(question) = endpoint.question(&root) {
                prop_assert_eq!(question.request().uri().host(), Some("h.example"));
                prop_assert_eq!(question.request().uri().port_u16().unwrap_or(80), 80);
            }
        }
    }

    #[test]
    fn does_no_template_panic(template in "[a-z:/?#@{}.\\\\\u{e9} ]{0,40}", x in any::<String>()) {
        for template in [template.clone(), format!("http://h/{template}")] {
            if let Ok(address) = Address::parse(&template, &[]) {
                let _ = address.resolve(&value!({"x": x}));
            }
            let _ = Address::computed(&format!("'{template}'"), &[]);
        }
    }
}
