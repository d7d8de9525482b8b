//! The ways from client to service that are measured, and what has to run for them.

use std::net::SocketAddr;

use crate::envoy::{self, Envoy};
use crate::options::Options;
use crate::processes::{Stage, free_addresses};
use crate::shmesh::{Measured, Shmesh};

/// What `shmesh echo` prints once it serves.
pub const ECHO_UP: &str = "listening on";
/// What a sidecar logs once every listener accepts.
pub const SIDECAR_UP: &str = "shmesh is ready";

/// Every path, in the order of the tables. The first of each protocol is what the others are compared with.
pub const ALL: [Path; 12] = [
    Path { protocol: Protocol::Http, way: Way::DirectTcp },
    Path { protocol: Protocol::Http, way: Way::DirectUds },
    Path { protocol: Protocol::Http, way: Way::TcpToTcp },
    Path { protocol: Protocol::Http, way: Way::UdsToTcp },
    Path { protocol: Protocol::Http, way: Way::ShmToTcp },
    Path { protocol: Protocol::Http, way: Way::ShmToShm },
    Path { protocol: Protocol::Http, way: Way::Envoy },
    Path { protocol: Protocol::Dubbo, way: Way::DirectTcp },
    Path { protocol: Protocol::Dubbo, way: Way::TcpToTcp },
    Path { protocol: Protocol::Dubbo, way: Way::ShmToTcp },
    Path { protocol: Protocol::Dubbo, way: Way::ShmToShm },
    Path { protocol: Protocol::Dubbo, way: Way::Envoy },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Dubbo,
}

impl Protocol {
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Dubbo => "dubbo",
        }
    }

    /// What a route looks at, and targets whose routes lead to the service over TCP and over shared memory.
    fn targets(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Protocol::Http => ("host", ["echo-tcp", "echo-shm"]),
            Protocol::Dubbo => ("service", ["com.demo.EchoTcp", "com.demo.EchoShm"]),
        }
    }
}

/// Towards the sidecar, and from there to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    DirectTcp,
    DirectUds,
    TcpToTcp,
    UdsToTcp,
    ShmToTcp,
    ShmToShm,
    Envoy,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::DirectTcp => "direct-tcp",
            Way::DirectUds => "direct-uds",
            Way::TcpToTcp => "shmesh-tcp-tcp",
            Way::UdsToTcp => "shmesh-uds-tcp",
            Way::ShmToTcp => "shmesh-shm-tcp",
            Way::ShmToShm => "shmesh-shm-shm",
            Way::Envoy => "envoy-tcp-tcp",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub protocol: Protocol,
    pub way: Way,
}

impl Path {
    /// As filters and `--list` have it: `http/direct-tcp`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.protocol.word(), self.way.name())
    }

    fn needs_sidecar(&self) -> bool {
        matches!(self.way, Way::TcpToTcp | Way::UdsToTcp | Way::ShmToTcp | Way::ShmToShm)
    }
}

/// What came of one turn of one path.
pub enum Outcome {
    Measured(Measured),
    /// The machine lacks what the path needs.
    Skipped(String),
    Failed(String),
}

/// What runs, in words, or why it does not.
type Up = Result<String, String>;

/// The processes of one protocol, and why some of them are not there.
pub struct Set<'a> {
    protocol: Protocol,
    stage: &'a Stage,
    /// Where the service listens.
    service: SocketAddr,
    /// The sidecar's listener.
    listener: SocketAddr,
    /// Envoy's listener.
    envoy: SocketAddr,
    service_uds: Up,
    sidecar: Up,
    app: Up,
    /// `None`: there is no Envoy here, or nobody asked for it.
    envoy_up: Option<Up>,
}

impl<'a> Set<'a> {
    /// Starts what the paths need. Only a service over TCP, to which all are compared, has to come up.
    pub fn start(protocol: Protocol, paths: &[Path], stage: &'a Stage, tools: &Tools) -> Result<Set<'a>, String> {
        stage.clear();
        let [service, listener, admin, envoy] = free_addresses()?;
        let needs = |way: Way| paths.iter().any(|path| path.way == way);
        let unused = || Err("it was not asked for".to_owned());
        let mut set = Set {
            protocol,
            stage,
            service,
            listener,
            envoy,
            service_uds: unused(),
            sidecar: unused(),
            app: unused(),
            envoy_up: None,
        };
        set.echo(tools, &format!("tcp:{service}"), &[])?;
        if needs(Way::DirectUds) {
            set.service_uds = set.echo(tools, &set.unix("service"), &[]);
        }
        if paths.iter().any(Path::needs_sidecar) {
            set.sidecar = set.start_sidecar(tools, admin);
        }
        if needs(Way::ShmToShm) && set.sidecar.is_ok() {
            set.app = set.echo(tools, &set.session(), &["--name", "echo-app"]);
        }
        if let (true, Some(binary)) = (needs(Way::Envoy), &tools.envoy) {
            set.envoy_up = Some(binary.start(protocol, envoy, service, stage).map(|(words, _)| words));
        }
        Ok(set)
    }

    /// One turn of a path.
    pub fn measure(&self, path: Path, shmesh: &Shmesh, options: &Options) -> Outcome {
        let (_, [to_tcp, to_shm]) = self.protocol.targets();
        let tcp = |address: SocketAddr| format!("tcp:{address}");
        let (state, via, target) = match path.way {
            Way::DirectTcp => (Ok(String::new()), tcp(self.service), to_tcp),
            Way::DirectUds => (self.service_uds.clone(), self.unix("service"), to_tcp),
            Way::TcpToTcp => (self.sidecar.clone(), tcp(self.listener), to_tcp),
            Way::UdsToTcp => (self.sidecar.clone(), self.unix("sidecar"), to_tcp),
            Way::ShmToTcp => (self.sidecar.clone(), self.session(), to_tcp),
            Way::ShmToShm => (self.sidecar.clone().and(self.app.clone()), self.session(), to_shm),
            Way::Envoy => match &self.envoy_up {
                Some(state) => (state.clone(), tcp(self.envoy), to_tcp),
                None => return Outcome::Skipped(envoy::HOW_TO_GET.to_owned()),
            },
        };
        match state.and_then(|_| shmesh.bench(self.protocol, &via, target, &options.load())) {
            Ok(measured) => Outcome::Measured(measured),
            Err(sentence) => Outcome::Failed(sentence),
        }
    }

    /// What stands beside the table: the proxies that were measured.
    pub fn legend(&self) -> String {
        let proxies = [Some(&self.sidecar), self.envoy_up.as_ref()];
        let words: Vec<&str> = proxies.into_iter().flatten().flatten().map(String::as_str).collect();
        words.join("; ")
    }

    fn echo(&self, tools: &Tools, listen: &str, more: &[&str]) -> Up {
        let word = self.protocol.word();
        let args = [&["echo", "--protocol", word, "--listen", listen], more].concat();
        let started =
            self.stage.start(&format!("the {word} service on {listen}"), &tools.shmesh.file, &args, ECHO_UP)?;
        Ok(started.line)
    }

    fn start_sidecar(&self, tools: &Tools, admin: SocketAddr) -> Up {
        let config = self.stage.write(&format!("{}.yaml", self.protocol.word()), &self.config(admin))?;
        let args = ["run", "--config", &config, "--workers", "1", "--driver", &tools.driver];
        let started = self.stage.start("the sidecar", &tools.shmesh.file, &args, SIDECAR_UP)?;
        Ok(format!("shmesh on driver {}, 1 worker", driver_of(&started.line)))
    }

    fn config(&self, admin: SocketAddr) -> String {
        let Set { protocol, service, listener, .. } = self;
        let (key, [to_tcp, to_shm]) = protocol.targets();
        let word = protocol.word();
        let unix = self.socket("sidecar");
        let session = self.socket("session");
        format!(
            "admin: {{ address: \"{admin}\" }}\n\
             listeners:\n\
             \x20 - {{ name: apps, shm: {session} }}\n\
             \x20 - {{ name: tcp, tcp: \"{listener}\", protocol: {word} }}\n\
             \x20 - {{ name: uds, unix: {unix}, protocol: {word} }}\n\
             routes:\n\
             \x20 - {{ match: {{ {key}: {to_tcp} }}, cluster: tcp }}\n\
             \x20 - {{ match: {{ {key}: {to_shm} }}, cluster: shm }}\n\
             clusters:\n\
             \x20 - {{ name: tcp, endpoints: [ \"tcp:{service}\" ] }}\n\
             \x20 - {{ name: shm, endpoints: [ \"shm:echo-app\" ] }}\n"
        )
    }

    fn session(&self) -> String {
        format!("shm:{}", self.socket("session"))
    }

    fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.socket(name))
    }

    fn socket(&self, name: &str) -> String {
        self.stage.path(&format!("{}-{name}.sock", self.protocol.word()))
    }
}

/// The driver that was taken, from the line that says so: `… driver="uring" …`.
pub fn driver_of(line: &str) -> &str {
    line.split("driver=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("unknown")
}

/// What the processes are made of.
pub struct Tools {
    pub shmesh: Shmesh,
    pub envoy: Option<Envoy>,
    /// Driver of the sidecar, by name.
    pub driver: String,
}
