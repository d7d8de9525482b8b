//! `shmesh demo`: services, a sidecar and a client of its own, and a table of what each way costs.

mod stage;
mod table;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::cli::fail;
use stage::{Stage, free_addresses, shown};
use table::{Row, table};

/// How long each way is measured. Eight of these, their warm-ups and the starts stay well below 20 s.
const MEASURE: Duration = Duration::from_millis(700);
/// Bytes of each call's payload.
const PAYLOAD: usize = 64;
/// What the sidecar logs once every listener accepts.
const SIDECAR_UP: &str = "ready";
/// What an echo service prints.
const ECHO_UP: &str = "listening on";

const INTRODUCTION: &str = "\
shmesh is a sidecar: it sits beside an application and governs its calls. The application reaches
it over TCP, over a Unix socket (UDS), or through shared memory (shm), which costs the least.

Started now, as processes of their own: an HTTP and a Dubbo service that send back what they get,
one sidecar, and for each row below a client that makes one call after the other (64 bytes, every
answer is compared with what was sent).
";

const FOOTNOTE: &str = "\
direct TCP   client -TCP-> service, without a sidecar: what is to be beaten
via TCP      client -TCP-> sidecar -TCP-> service
via UDS      client -UDS-> sidecar -UDS-> service
via shm      client -shm-> sidecar -shm-> service

Next: `shmesh run` starts a sidecar of your own, README.md goes on from there.
";

/// Runs the demo to its end.
pub fn demo() -> ExitCode {
    match play() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&format!("the demo failed: {sentence}")),
    }
}

fn play() -> Result<(), String> {
    println!("{INTRODUCTION}");
    let stage = Stage::set_up()?;
    let set = Set::build(&stage)?;
    for protocol in [&HTTP, &DUBBO] {
        let mut rows = Vec::new();
        for (way, via, target) in set.ways(protocol) {
            rows.push(measure(&stage, protocol, way, &via, target)?);
        }
        println!("{}", table(protocol.title, &rows));
    }
    print!("{FOOTNOTE}");
    Ok(())
}

/// What the two halves of the table differ in.
struct Protocol {
    title: &'static str,
    word: &'static str,
    /// Targets whose route leads to the service over TCP, UDS and shm.
    targets: [&'static str; 3],
}

const HTTP: Protocol = Protocol { title: "HTTP", word: "http", targets: ["greeter-tcp", "greeter-uds", "greeter-shm"] };
const DUBBO: Protocol = Protocol {
    title: "Dubbo",
    word: "dubbo",
    targets: ["com.demo.GreeterTcp", "com.demo.GreeterUds", "com.demo.GreeterShm"],
};

/// The addresses of everything that runs.
struct Set {
    session: String,
    /// Per protocol word: service over TCP, sidecar over TCP, sidecar over UDS.
    http: [String; 3],
    dubbo: [String; 3],
}

impl Set {
    /// Starts services and sidecar.
    fn build(stage: &Stage) -> Result<Self, String> {
        let [admin, http, dubbo, http_service, dubbo_service] = free_addresses()?;
        let path = |name: &str| shown(&stage.path(name));
        let set = Self {
            session: path("shmesh.sock"),
            http: [format!("tcp:{http_service}"), format!("tcp:{http}"), format!("unix:{}", path("http.sock"))],
            dubbo: [format!("tcp:{dubbo_service}"), format!("tcp:{dubbo}"), format!("unix:{}", path("dubbo.sock"))],
        };
        for (protocol, address) in [("http", &set.http[0]), ("dubbo", &set.dubbo[0])] {
            echo(stage, protocol, address, &[])?;
            let uds = format!("unix:{}", path(&format!("{protocol}-service.sock")));
            echo(stage, protocol, &uds, &[])?;
        }
        let config = path("shmesh.yaml");
        let text = set.config(&admin.to_string(), &path("http-service.sock"), &path("dubbo-service.sock"));
        fs::write(&config, text).map_err(|error| format!("cannot write {config}: {error}"))?;
        stage.start("the sidecar", &["run", "--config", &config], SIDECAR_UP)?;
        let session = format!("shm:{}", set.session);
        for protocol in ["http", "dubbo"] {
            let name = format!("{protocol}-app");
            echo(stage, protocol, &session, &["--name", &name])?;
        }
        Ok(set)
    }

    fn config(&self, admin: &str, http_uds: &str, dubbo_uds: &str) -> String {
        let bare = |address: &str| address.split_once(':').map_or(String::new(), |(_, rest)| rest.to_owned());
        let [http_service, http_tcp, http_sock] = &self.http;
        let [dubbo_service, dubbo_tcp, dubbo_sock] = &self.dubbo;
        let mut text = format!("admin: {{ address: \"{admin}\" }}\nlisteners:\n");
        text.push_str(&format!("  - {{ name: apps, shm: \"{}\" }}\n", self.session));
        for (name, key, address, protocol) in [
            ("http-tcp", "tcp", http_tcp, "http"),
            ("http-uds", "unix", http_sock, "http"),
            ("dubbo-tcp", "tcp", dubbo_tcp, "dubbo"),
            ("dubbo-uds", "unix", dubbo_sock, "dubbo"),
        ] {
            let address = bare(address);
            text.push_str(&format!("  - {{ name: {name}, {key}: \"{address}\", protocol: {protocol} }}\n"));
        }
        let clusters = [
            (&HTTP, "host", [http_service.clone(), format!("unix:{http_uds}"), "shm:http-app".into()]),
            (&DUBBO, "service", [dubbo_service.clone(), format!("unix:{dubbo_uds}"), "shm:dubbo-app".into()]),
        ];
        text.push_str("routes:\n");
        for (protocol, key, _) in &clusters {
            for target in protocol.targets {
                text.push_str(&format!("  - {{ match: {{ {key}: {target} }}, cluster: {target} }}\n"));
            }
        }
        text.push_str("clusters:\n");
        for (protocol, _, endpoints) in &clusters {
            for (target, endpoint) in protocol.targets.iter().zip(endpoints) {
                text.push_str(&format!("  - {{ name: {target}, endpoints: [ \"{endpoint}\" ] }}\n"));
            }
        }
        text
    }

    /// The rows of a protocol's table: name, address, target.
    fn ways(&self, protocol: &Protocol) -> [(&'static str, String, &'static str); 4] {
        let [service, tcp, uds] = match protocol.word {
            "http" => &self.http,
            _ => &self.dubbo,
        };
        let [to_tcp, to_uds, to_shm] = protocol.targets;
        [
            ("direct TCP", service.clone(), to_tcp),
            ("via TCP", tcp.clone(), to_tcp),
            ("via UDS", uds.clone(), to_uds),
            ("via shm", format!("shm:{}", self.session), to_shm),
        ]
    }
}

fn echo(stage: &Stage, protocol: &str, listen: &str, more: &[&str]) -> Result<(), String> {
    let args = [&["echo", "--protocol", protocol, "--listen", listen], more].concat();
    stage.start(&format!("the {protocol} service on {listen}"), &args, ECHO_UP)
}

fn measure(stage: &Stage, protocol: &Protocol, way: &'static str, via: &str, target: &str) -> Result<Row, String> {
    let duration = format!("{}ms", MEASURE.as_millis());
    let payload = PAYLOAD.to_string();
    let mut args = vec!["bench", "--via", via, "--protocol", protocol.word];
    args.extend(["--target", target, "--payload", &payload, "--duration", &duration, "--json"]);
    let output = stage.run(&args)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} {way}: the client ended with {}: {}", protocol.title, output.status, said.trim()));
    }
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{} {way}: the report cannot be read: {error}", protocol.title))?;
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    if number("/errors") > 0.0 {
        let errors = number("/errors");
        return Err(format!("{} {way}: {errors} calls failed: {}", protocol.title, said.trim()));
    }
    Ok(Row {
        way,
        p50_ns: number("/latency_ns/p50") as u64,
        p99_ns: number("/latency_ns/p99") as u64,
        rps: number("/rps"),
    })
}
