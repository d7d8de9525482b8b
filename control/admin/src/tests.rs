use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;

use serde_json::json;
use tokio::sync::oneshot;

use super::*;

#[derive(Default)]
struct Fake {
    lacking: Mutex<Vec<String>>,
    direct: Mutex<(Option<String>, u16)>,
}

impl AdminSource for Fake {
    fn lacking(&self) -> Vec<String> {
        self.lacking.lock().expect("no panic").clone()
    }
    fn snapshot(&self) -> Value {
        json!({ "version": 3 })
    }
    fn sessions(&self) -> Value {
        json!([{ "app": "my-app" }])
    }
    fn clusters(&self) -> Value {
        json!([])
    }
    fn direct(&self) -> Value {
        let (app, share) = self.direct.lock().expect("no panic").clone();
        json!({ "share": share, "app": app })
    }
    fn set_direct(&self, app: Option<&str>, share: u16) -> Result<(), String> {
        if app == Some("full") {
            return Err("too many".into());
        }
        *self.direct.lock().expect("no panic") = (app.map(str::to_owned), share);
        Ok(())
    }
    fn metrics(&self, accept: Option<&str>) -> (&'static str, String) {
        ("text/plain; version=0.0.4", format!("asked_for {accept:?}\n"))
    }
}

/// A POST to /direct with further header fields.
fn post(host: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST /direct HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n{fields}connection: close\r\n\r\n"
    );
    exchange(Fake::default(), head + body)
}

/// Sends one request to a server of its own and returns the whole answer.
fn ask(source: Fake, request: &str) -> String {
    exchange(source, format!("{request}host: a\r\nconnection: close\r\n\r\n"))
}

fn exchange(source: Fake, request: String) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(bind((Ipv4Addr::LOCALHOST, 0).into())).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (done, end) = oneshot::channel::<()>();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        drop(done);
        answer
    });
    let end = async {
        let _ = end.await;
    };
    runtime.block_on(serve(listener, Arc::new(source), end)).expect("it serves");
    client.join().expect("no panic")
}

#[test]
fn ready_says_what_is_lacking() {
    let answer = ask(Fake::default(), "GET /ready HTTP/1.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");

    let lacking = Fake::default();
    lacking.lacking.lock().expect("no panic").push("it is draining".into());
    let answer = ask(lacking, "GET /ready HTTP/1.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnot ready: it is draining\n"), "{answer}");
}

#[test]
fn every_path_shows_its_source() {
    for (path, kind, body) in [
        ("/live", "text/plain; charset=utf-8", "live\n"),
        ("/snapshot", "application/json", "{\n  \"version\": 3\n}\n"),
        ("/sessions", "application/json", "[\n  {\n    \"app\": \"my-app\"\n  }\n]\n"),
        ("/clusters", "application/json", "[]\n"),
        ("/metrics", "text/plain; version=0.0.4", "asked_for Some(\"x/y\")\n"),
    ] {
        assert!(PATHS.contains(&format!("{path} ")), "{path} is listed");
        let answer = ask(Fake::default(), &format!("GET {path} HTTP/1.1\r\naccept: x/y\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(&format!("content-type: {kind}\r\n")), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }
}

#[test]
fn other_paths_and_methods_are_told_what_there_is() {
    let answer = ask(Fake::default(), "GET /stats HTTP/1.1\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("there is nothing at /stats") && answer.contains(PATHS), "{answer}");
    for method in ["POST", "PUT", "DELETE"] {
        let answer = ask(Fake::default(), &format!("{method} /ready HTTP/1.1\r\n"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.contains("allow: GET,HEAD\r\n"), "{answer}");
        assert!(answer.ends_with("use GET\n"), "{answer}");
    }
}

#[test]
fn a_post_changes_the_direct_mode() {
    const JSON: &str = "content-type: application/json\r\n";
    for host in ["127.0.0.1:15000", "localhost", "[::1]:9", "LOCALHOST:1"] {
        let answer = post(host, JSON, r#"{"share":1000,"app":"my-app"}"#);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("{\n  \"app\": \"my-app\",\n  \"share\": 1000\n}\n"), "{answer}");
    }
    assert!(post("127.0.0.1", JSON, r#"{"share":0,"app":null}"#).starts_with("HTTP/1.1 200 "));
    assert!(post("127.0.0.1", JSON, r#"{"share":0,"app":"full"}"#).starts_with("HTTP/1.1 409 "));
    for wrong in
        ["", "{}", "on", r#"{"share":1001}"#, r#"{"share":-1}"#, r#"{"share":1,"app":7}"#, r#"{"share":1,"apps":"a"}"#]
    {
        assert!(post("127.0.0.1", JSON, wrong).starts_with("HTTP/1.1 400 "), "{wrong}");
    }
}

#[test]
fn a_web_page_changes_nothing() {
    const GOOD: &str = r#"{"share":1000}"#;
    const JSON: &str = "content-type: application/json\r\n";
    for (host, fields) in [
        ("127.0.0.1", format!("{JSON}origin: http://evil.example\r\n")),
        ("127.0.0.1", format!("{JSON}origin: null\r\n")),
        ("127.0.0.1", format!("{JSON}sec-fetch-site: cross-site\r\n")),
        ("127.0.0.1", format!("{JSON}sec-fetch-site: same-origin\r\n")),
        // A name that was made to resolve to this address.
        ("evil.example:15000", JSON.to_owned()),
        ("127.0.0.1.evil.example", JSON.to_owned()),
        // What a form can send.
        ("127.0.0.1", "content-type: text/plain\r\n".to_owned()),
        ("127.0.0.1", String::new()),
    ] {
        let answer = post(host, &fields, GOOD);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{host} {fields:?}: {answer}");
    }
    assert!(ask(Fake::default(), "GET /direct HTTP/1.1\r\n").ends_with("{\n  \"app\": null,\n  \"share\": 0\n}\n"));
}

#[test]
fn an_address_in_use_is_refused_in_a_sentence() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a port");
        let address = first.local_addr().expect("bound");
        let error = bind(address).await.expect_err("it is in use");
        let sentence = error.to_string();
        assert!(sentence.starts_with(&format!("the admin address {address} is in use")), "{sentence}");
        assert!(sentence.contains("`admin: { address: … }`"), "{sentence}");
    });
}
