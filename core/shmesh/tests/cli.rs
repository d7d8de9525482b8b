//! The binary's clients and services against one another, without a sidecar: real processes, real
//! sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const SHMESH: &str = env!("CARGO_BIN_EXE_shmesh");

/// An echo service that ends with the test.
struct Echo {
    process: Child,
    /// As `--via` takes it.
    address: String,
}

impl Echo {
    fn start(protocol: &str, listen: &str, more: &[&str]) -> Self {
        let mut process = Command::new(SHMESH)
            .args(["echo", "--protocol", protocol, "--listen", listen])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let stderr = process.stderr.take().expect("it is piped");
        BufReader::new(stderr).read_line(&mut line).expect("it says where it listens");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("unexpected first line: {line}"))
            .to_owned();
        Self { process, address }
    }

    fn tcp(protocol: &str) -> Self {
        Self::start(protocol, "tcp:127.0.0.1:0", &[])
    }

    fn unix(protocol: &str, folder: &TempDir) -> Self {
        let path = folder.path().join(format!("{protocol}.sock"));
        Self::start(protocol, &format!("unix:{}", path.display()), &[])
    }

    fn connect(&self) -> TcpStream {
        let address = self.address.strip_prefix("tcp:").expect("a TCP echo");
        TcpStream::connect(address).expect("it listens")
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn shmesh(args: &[&str]) -> Output {
    Command::new(SHMESH).args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

fn ok(args: &[&str]) -> Output {
    let output = shmesh(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that compress to nothing and hold every value.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 + 1;
    let mut bytes = Vec::with_capacity(len);
    for _ in 0..len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push((state >> 24) as u8);
    }
    bytes
}

fn write_noise(folder: &TempDir, len: usize) -> (Vec<u8>, String) {
    let bytes = noise(len);
    let path = folder.path().join(format!("noise-{len}"));
    std::fs::write(&path, &bytes).expect("a temporary file");
    (bytes, format!("@{}", path.display()))
}

#[test]
fn http_calls_bring_back_every_byte() {
    let folder = TempDir::new().expect("a folder");
    for echo in [Echo::tcp("http"), Echo::unix("http", &folder)] {
        for len in [0, 1, 1000, 65_536, 8 * 1024 * 1024] {
            let (bytes, data) = write_noise(&folder, len);
            let call = ["call", "--via", &echo.address, "--data", &data];
            let http = ["--http", "PUT", "http://reviews/a?b=c"];
            let plain = ok(&[&call[..], &http].concat());
            assert!(plain.stdout == bytes, "{len} bytes, with a length");
            assert!(plain.stderr.is_empty());
            let chunked = ["-H", "Transfer-Encoding: chunked", "-v"];
            let chunked = ok(&[&call[..], &http, &chunked].concat());
            assert!(chunked.stdout == bytes, "{len} bytes, chunked");
            let head = text(&chunked.stderr);
            assert!(head.starts_with("HTTP/1.1 200 OK\n"), "{head}");
            assert!(head.contains("transfer-encoding: chunked\n"), "{head}");
        }
    }
}

#[test]
fn a_body_from_stdin_is_chunked() {
    let echo = Echo::tcp("http");
    let mut call = Command::new(SHMESH)
        .args(["call", "--via", &echo.address, "--data", "@-"])
        .args(["--http", "POST", "http://a/"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = call.stdin.take().expect("it is piped");
    stdin.write_all(b"from a pipe").expect("it reads");
    drop(stdin);
    let output = call.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"from a pipe");
}

#[test]
fn a_call_writes_the_request_it_was_told_to() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let via = format!("tcp:{}", listener.local_addr().expect("bound"));
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        let mut request = Vec::new();
        while !request.ends_with(b"hello") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("more");
            request.push(byte[0]);
        }
        let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\nno such page";
        stream.write_all(answer).expect("it reads");
        request
    });
    let url = "http://reviews:8080/p?q#f";
    let mut args = vec!["call", "--via", &via, "--http", "PATCH", url];
    args.extend(["-H", "X-One: 1", "-H", "accept: text/plain", "--data", "hello"]);
    let output = ok(&args);
    // Another status than 200 is a completed exchange; this body ends with the connection.
    assert_eq!(output.stdout, b"no such page");
    let request = text(&service.join().expect("served"));
    let mut lines: Vec<_> = request.split("\r\n").collect();
    assert_eq!(lines.pop(), Some("hello"));
    assert_eq!(lines.remove(0), "PATCH /p?q HTTP/1.1");
    let agent = concat!("User-Agent: shmesh/", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["Host: reviews:8080", "X-One: 1", "accept: text/plain", agent, "Content-Length: 5", ""]);
}

#[test]
fn what_cannot_be_called_is_said_in_a_sentence() {
    let echo = Echo::tcp("http");
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("tcp:{}", listener.local_addr().expect("bound"))
    };
    let get = ["--http", "GET", "http://a/"];
    let cases: [(Vec<&str>, i32, &str); 6] = [
        ([&["call", "--via", &closed], &get[..]].concat(), 1, "cannot connect to tcp:127.0.0.1:"),
        (
            [&["call", "--via", &echo.address, "--data", "@/no/such"], &get[..]].concat(),
            1,
            "cannot read /no/such: No such file",
        ),
        (vec!["call", "--via", &echo.address, "--http", "GET", "https://a/"], 1, "TLS is not spoken here"),
        (vec!["call", "--via", &echo.address], 2, "required"),
        ([&["call", "--via", "127.0.0.1:80"], &get[..]].concat(), 2, "has no scheme"),
        (vec!["call", "--via", &echo.address, "--dubbo", "a.B", "c"], 1, "the answer is not Dubbo"),
    ];
    for (args, code, part) in cases {
        let output = shmesh(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(part), "{args:?}: {said}");
    }
}

#[test]
fn a_cut_answer_is_no_completed_exchange() {
    for (answer, part) in [
        (&b""[..], "closed before an answer came"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "closed within the answer's head"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour", "after 4 of 9 body bytes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n", "within the body, after 4 bytes"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let via = format!("tcp:{}", listener.local_addr().expect("bound"));
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a call");
            let mut request = [0; 1024];
            let mut seen = 0;
            while !request[..seen].ends_with(b"\r\n\r\n") {
                seen += stream.read(&mut request[seen..]).expect("a request");
            }
            stream.write_all(answer).expect("it reads");
        });
        let output = shmesh(&["call", "--via", &via, "--http", "GET", "http://a/"]);
        service.join().expect("served");
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn the_http_echo_keeps_to_the_protocol() {
    let echo = Echo::tcp("http");
    let ask = |request: &[u8]| {
        let mut stream = echo.connect();
        stream.write_all(request).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it closes");
        text(&answer)
    };
    let three = ask(b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\none\
          HEAD / HTTP/1.1\r\nhost: a\r\n\r\n\
          POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
          2\r\nth\r\n3;x=y\r\nree\r\n0\r\n\r\n");
    let heads: Vec<_> = three.match_indices("HTTP/1.1 200 OK\r\n").collect();
    assert_eq!(heads.len(), 3, "{three}");
    assert!(three.contains("\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\n"), "{three}");
    assert!(three.contains("\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n"), "{three}");
    assert!(three.contains("\r\nconnection: close\r\n"), "{three}");
    assert!(three.ends_with("\r\n\r\n2\r\nth\r\n3\r\nree\r\n0\r\n\r\n"), "{three}");

    let old = ask(b"PUT / HTTP/1.0\r\ncontent-length: 3\r\n\r\nold");
    assert!(old.contains("connection: close\r\n") && old.ends_with("\r\n\r\nold"), "{old}");

    let expecting =
        b"PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n";
    let mut stream = echo.connect();
    stream.write_all(expecting).expect("it reads");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("it asks for the body");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it closes");
    assert!(text(&answer).ends_with("\r\n\r\nok"));

    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        (b"\x16\x03\x01\x02\x00", "400"),
    ] {
        let answer = ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

/// A client that sends everything before it reads anything must not lock up with the echo.
#[test]
fn a_large_body_may_be_sent_whole_before_the_answer_is_read() {
    let echo = Echo::tcp("http");
    let body = noise(32 * 1024 * 1024);
    let mut stream = echo.connect();
    let head = format!("PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(&body).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it closes");
    assert!(answer.ends_with(&body));
}

#[test]
fn dubbo_calls_bring_back_their_argument() {
    let folder = TempDir::new().expect("a folder");
    let long = "grüße 🎉 ".repeat(5_000);
    for echo in [Echo::tcp("dubbo"), Echo::unix("dubbo", &folder)] {
        let call = ["call", "--via", &echo.address, "--dubbo", "com.demo.GreetService", "sayHello"];
        for argument in ["", "shmesh", "-x", &long] {
            let keys = ["--group", "g1", "--version", "1.0.0", "--arg", argument];
            let output = ok(&[&call[..], &keys].concat());
            assert_eq!(text(&output.stdout), format!("{argument}\n"));
        }
        assert_eq!(text(&ok(&call).stdout), "null\n");
    }
}

#[test]
fn the_dubbo_echo_answers_heartbeats_and_no_one_way_call() {
    let echo = Echo::tcp("dubbo");
    let mut stream = echo.connect();
    let frame = |flags: u8, id: u8, body: &[u8]| {
        let mut frame = vec![0xda, 0xbb, flags, 0, 0, 0, 0, 0, 0, 0, 0, id, 0, 0, 0];
        frame.push(body.len() as u8);
        frame.extend_from_slice(body);
        frame
    };
    let request = b"\x052.0.2\x01s\x050.0.0\x01m\x12Ljava/lang/String;\x03abcHZ";
    let mut sent = frame(0x82, 1, request);
    sent.extend(frame(0xe2, 2, b"N"));
    sent.extend(frame(0xc2, 3, request));
    stream.write_all(&sent).expect("it reads");
    let mut received = vec![0; 17 + 21];
    stream.read_exact(&mut received).expect("two answers");
    assert_eq!(received[..12], [0xda, 0xbb, 0x22, 20, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(received[17..29], [0xda, 0xbb, 0x02, 20, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(received[33..], *b"\x91\x03abc");
}

#[test]
fn benches_report_what_they_compared() {
    let folder = TempDir::new().expect("a folder");
    for protocol in ["http", "dubbo", "raw"] {
        for echo in [Echo::tcp(protocol), Echo::unix(protocol, &folder)] {
            let bench = ["bench", "--via", &echo.address, "--protocol", protocol];
            for more in [
                &["--duration", "200ms"][..],
                &["--duration", "200ms", "--inflight", "16", "--connections", "5"],
                &["--duration", "200ms", "--payload", "300000", "--inflight", "8"],
                &["--duration", "500ms", "--rate", "2000", "--connections", "3", "--payload", "1"],
            ] {
                let output = answered(&[&bench[..], &["--json"], more].concat());
                let said = text(&output.stderr);
                assert!(said.is_empty(), "{protocol} {more:?}: {said}");
                check_report(&text(&output.stdout), more);
            }
        }
    }
}

/// Runs a bench, and for longer if it is so slow here that no answer came in its time.
fn answered(args: &[&str]) -> Output {
    let at = args.iter().position(|arg| *arg == "--duration").expect("a duration") + 1;
    let mut args = args.to_vec();
    for longer in ["2s", "20s"] {
        let output = shmesh(&args);
        if output.status.success() || args.contains(&"--rate") {
            return output;
        }
        args[at] = longer;
    }
    ok(&args)
}

fn check_report(printed: &str, args: &[&str]) {
    let report: serde_json::Value = serde_json::from_str(printed).expect(printed);
    let number = |path: &str| {
        let value = report.pointer(path).unwrap_or_else(|| panic!("{path}: {printed}"));
        value.as_f64().unwrap_or_else(|| panic!("{path}: {printed}"))
    };
    assert_eq!(report.as_object().map(|object| object.len()), Some(7), "{printed}");
    assert_eq!(number("/errors"), 0.0, "{args:?}: {printed}");
    assert_eq!(number("/sent"), number("/ok") + number("/errors"), "{printed}");
    assert!(number("/answered") >= number("/sent"), "{printed}");
    assert!(number("/ok") > 0.0 && number("/rps") > 0.0, "{args:?}: {printed}");
    let quantiles = ["p50", "p90", "p99", "p999", "max"].map(|q| number(&format!("/latency_ns/{q}")));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{printed}");
    let given = |name: &str| {
        let at = args.iter().position(|arg| *arg == name)?;
        args[at + 1].parse::<f64>().ok()
    };
    assert_eq!(number("/payload"), given("--payload").unwrap_or(64.0), "{printed}");
    if let Some(rate) = given("--rate") {
        assert!((number("/sent") - rate * 0.5).abs() <= 3.0, "{printed}");
    }
}

#[test]
fn a_bench_counts_answers_that_are_not_the_echo_as_errors() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let via = format!("tcp:{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            while stream.read(&mut request).is_ok_and(|n| n > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope";
                stream.write_all(answer).expect("it reads");
            }
        }
    });
    let args = ["bench", "--via", &via, "--protocol", "http", "--payload", "4"];
    let output = shmesh(&[&args[..], &["--duration", "100ms", "--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(report["ok"], 0);
    assert_eq!(report["sent"], report["errors"]);
    assert!(report["errors"].as_u64().is_some_and(|errors| errors > 0));
    assert!(text(&output.stderr).contains("an answer was not the payload"));
}

/// The service of a benchmark reads what it is sent, and says so when that is not what was written.
#[test]
fn a_checking_echo_refuses_what_no_bench_has_sent() {
    let echo = Echo::start("http", "tcp:127.0.0.1:0", &["--check"]);
    let bench = ["bench", "--via", &echo.address, "--protocol", "http", "--duration", "1s", "--payload"];
    for payload in ["0", "5", "64", "300001"] {
        ok(&[&bench[..], &[payload]].concat());
    }
    let call = |data: &str| shmesh(&["call", "--via", &echo.address, "--data", data, "--http", "PUT", "http://x/"]);
    // Eight bytes are one word, and any word may be the first.
    assert!(call("12345678").status.success());
    assert!(!call("1234567890123456").status.success());
    let output = shmesh(&["echo", "--protocol", "raw", "--listen", "tcp:127.0.0.1:0", "--check"]);
    assert!(text(&output.stderr).contains("--check goes with"), "{output:?}");
}

#[test]
fn a_bench_survives_its_service() {
    let folder = TempDir::new().expect("a folder");
    let first = Echo::unix("http", &folder);
    let via = first.address.clone();
    let bench = Command::new(SHMESH)
        .args(["bench", "--via", &via, "--protocol", "http", "--inflight", "4"])
        .args(["--duration", "2500ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(std::time::Duration::from_millis(1000));
    drop(first);
    std::thread::sleep(std::time::Duration::from_millis(200));
    // The dead service's socket file is still there, and is replaced.
    assert!(Path::new(via.strip_prefix("unix:").expect("a path")).exists());
    let _second = Echo::start("http", &via, &[]);
    let output = bench.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    let errors = report["errors"].as_u64().expect("a number");
    // What was outstanding, and once more if the dying service's socket still took a connection.
    assert!((1..=8).contains(&errors), "{report}");
    assert_eq!(report["sent"].as_u64(), report["ok"].as_u64().map(|ok| ok + errors));
}

#[test]
fn an_address_in_use_is_refused() {
    let folder = TempDir::new().expect("a folder");
    for echo in [Echo::tcp("raw"), Echo::unix("raw", &folder)] {
        let output = shmesh(&["echo", "--protocol", "raw", "--listen", &echo.address]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("Address already in use"), "{said}");
    }
}

const GOOD_CONFIG: &str = "\
admin: { address: 127.0.0.1:15000 }
listeners:
  - { name: http-out, tcp: 127.0.0.1:15001, protocol: http }
routes:
  - { match: { host: reviews, path_prefix: / }, cluster: reviews }
clusters:
  - { name: reviews, endpoints: [ \"tcp:127.0.0.1:9080\" ] }
";

#[test]
fn check_says_where_a_configuration_is_wrong() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("shmesh.yaml");
    let name = file.display().to_string();
    let check = |config: &str| {
        std::fs::write(&file, config).expect("a temporary file");
        shmesh(&["check", "--config", &name])
    };
    let good = check(GOOD_CONFIG);
    assert!(good.status.success(), "{}", text(&good.stderr));
    let line = format!("{name}: ok (1 listener, 1 route, 1 cluster)\n");
    assert_eq!(text(&good.stdout), line);

    // Both faults are reported, each with the place of the value.
    let bad = check(
        &GOOD_CONFIG.replace("cluster: reviews }", "cluster: revews }").replace("tcp:127.0.0.1:9080", "127.0.0.1:9080"),
    );
    assert_eq!(bad.status.code(), Some(1));
    assert!(bad.stdout.is_empty());
    let said = text(&bad.stderr);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with(&format!("{name}:5:58: ")), "{said}");
    assert!(lines[1].starts_with(&format!("{name}:7:35: ")), "{said}");
}

#[test]
fn a_sidecar_that_cannot_start_says_why() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("shmesh.yaml");
    let name = file.display().to_string();
    let run = |config: &str| {
        std::fs::write(&file, config).expect("a temporary file");
        let output = shmesh(&["run", "--config", &name]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let said = run("listenrs: []\n");
    assert!(said.starts_with(&format!("{name}:1:1: unknown key `listenrs`")), "{said}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    let said = run(&GOOD_CONFIG.replace("127.0.0.1:15000", &taken));
    let sentence = format!("shmesh: the admin address {taken} is in use");
    assert!(said.contains(&sentence), "{said}");
}

#[test]
fn the_demo_ends_by_itself_with_its_tables() {
    let folder = TempDir::new().expect("a folder");
    let begin = std::time::Instant::now();
    let output = Command::new(SHMESH).arg("demo").env("TMPDIR", folder.path()).output().expect("the binary starts");
    let took = begin.elapsed();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    assert!(took.as_secs() < 20, "{took:?}");
    for way in ["direct TCP", "via TCP", "via UDS", "via shm"] {
        let rows = printed.lines().filter(|line| line.starts_with(&format!("  {way} ")));
        let ratios = rows.filter(|line| line.ends_with('x')).count();
        assert_eq!(ratios, 2, "{way}, over HTTP and over Dubbo: {printed}");
    }
    let left = std::fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(left, 0, "the demo cleans up");
}

#[test]
fn the_version_is_one_line() {
    let output = ok(&["--version"]);
    let version = concat!("shmesh ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(text(&output.stdout), version);
}
