//! What most rows of the table play on: services over TCP, UDS and shared memory, and one sidecar with one worker.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::path::{self, Protocol, Tools, Way};
use crate::peer;
use crate::processes::{Stage, Started, free_addresses};
use crate::shmesh::{Load, Measured};

/// How long an answer of the admin interface may take.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Running services and a sidecar; all speak HTTP, and the services compare what they are sent. They end with this.
pub struct Scene<'a> {
    tools: &'a Tools,
    pub stage: Stage,
    service: SocketAddr,
    admin: SocketAddr,
    pub sidecar: Started,
    /// The app that serves over shared memory.
    pub app: Started,
    /// What is said of the sidecar beside its numbers.
    pub legend: String,
}

impl<'a> Scene<'a> {
    /// Starts it; `more` are further top-level lines of the sidecar's configuration.
    pub fn start(tools: &'a Tools, more: &str) -> Result<Scene<'a>, String> {
        let stage = Stage::set_up()?;
        let [service, admin] = free_addresses()?;
        let session = stage.path("session.sock");
        let config = format!(
            "admin: {{ address: \"{admin}\" }}\n\
             listeners:\n\
             \x20 - {{ name: apps, shm: {session} }}\n\
             routes:\n\
             \x20 - {{ match: {{ host: echo-tcp }}, cluster: tcp }}\n\
             \x20 - {{ match: {{ host: echo-shm }}, cluster: shm }}\n\
             \x20 - {{ match: {{ host: echo-bulk }}, cluster: bulk }}\n\
             clusters:\n\
             \x20 - {{ name: tcp, endpoints: [ \"tcp:{service}\" ] }}\n\
             \x20 - {{ name: shm, endpoints: [ \"shm:echo-app\" ] }}\n\
             \x20 - {{ name: bulk, endpoints: [ \"shm:bulk-app\" ] }}\n\
             {more}\n"
        );
        let config = stage.write("shmesh.yaml", &config)?;
        let file = &tools.shmesh.file;
        let echo = |listen: &str, more: &[&str]| {
            let args = [&["echo", "--protocol", "http", "--check", "--listen", listen], more].concat();
            stage.start(&format!("the service on {listen}"), file, &args, path::ECHO_UP)
        };
        echo(&format!("tcp:{service}"), &[])?;
        echo(&format!("unix:{}", stage.path("service.sock")), &[])?;
        let args = ["run", "--config", &config, "--workers", "1", "--driver", &tools.driver];
        let sidecar = stage.start("the sidecar", file, &args, path::SIDECAR_UP)?;
        let app = echo(&format!("shm:{session}"), &["--name", "echo-app"])?;
        let legend = format!("driver {}", path::driver_of(&sidecar.line));
        Ok(Scene { tools, stage, service, admin, sidecar, app, legend })
    }

    /// Another app that serves, for calls to the host `echo-bulk`.
    pub fn start_bulk_app(&self) -> Result<Started, String> {
        let session = format!("shm:{}", self.session());
        let args = ["echo", "--protocol", "http", "--check", "--listen", &session, "--name", "bulk-app"];
        self.stage.start("the app with large payloads", &self.tools.shmesh.file, &args, path::ECHO_UP)
    }

    /// Where the service listens for TCP.
    pub fn service(&self) -> SocketAddr {
        self.service
    }

    /// The session socket.
    pub fn session(&self) -> String {
        self.stage.path("session.sock")
    }

    /// The client's command line for a way; direct ones and those over shared memory.
    pub fn command(&self, way: Way, load: &Load) -> Vec<OsString> {
        let shm = format!("shm:{}", self.session());
        let (via, target) = match way {
            Way::DirectUds => (format!("unix:{}", self.stage.path("service.sock")), "echo-tcp"),
            Way::ShmToTcp => (shm, "echo-tcp"),
            Way::ShmToShm => (shm, "echo-shm"),
            _ => (format!("tcp:{}", self.service), "echo-tcp"),
        };
        self.tools.shmesh.bench_command(Protocol::Http, &via, target, load)
    }

    /// Runs the client of a way to its end.
    pub fn call(&self, way: Way, load: &Load) -> Result<Measured, String> {
        crate::shmesh::measure(&mut command_of(&self.command(way, load)))
    }

    /// Large payloads back and forth over a lane and an app of their own, until the returned value is dropped.
    pub fn saturate(&self, load: &Load) -> Result<Background, String> {
        let via = format!("shm:{}", self.session());
        let args = self.tools.shmesh.bench_command(Protocol::Http, &via, "echo-bulk", load);
        let child = peer::bound(&args[0])?
            .args(&args[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Background(child.map_err(|error| format!("the neighbour cannot be started: {error}"))?))
    }

    /// The sidecar's counter of this name, all its labels added up; `None` if it has none of that name.
    pub fn counter(&self, name: &str) -> Result<Option<f64>, String> {
        let text = self.metrics().map_err(|error| format!("the admin interface does not answer: {error}"))?;
        let mut sum = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.split('{').next() == Some(name) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
            }
        }
        Ok(sum)
    }

    fn metrics(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A client that runs beside what is measured.
pub struct Background(Child);

impl Background {
    /// What is measured beside it is worth nothing if it has ended.
    pub fn end_if_running(mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            _ => Err("the neighbour ended while it was measured against".to_owned()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command line as something to run.
pub fn command_of(args: &[OsString]) -> Command {
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]);
    command
}
