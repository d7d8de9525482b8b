//! A network of its own for one thread and all that it starts, in which services can vanish without a word.

use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Where services listen in it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
pub const PORTS: [u16; 2] = [8001, 8002];

pub struct Network(());

impl Network {
    /// For this thread, and threads and processes that it starts from now on. The error says why there is none.
    pub fn of_its_own() -> Result<Network, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace can be made here: {error}"))?;
        run("ip", "link set lo up")?;
        run("ip", &format!("address add {ADDRESS}/32 dev lo"))?;
        let network = Network(());
        // Whether the kernel takes such rules.
        network.filter("-A", 0)?;
        network.filter("-D", 0)?;
        Ok(network)
    }

    /// Nothing goes to the service or comes from it any more. What was connected stays so, as far as anybody knows.
    pub fn vanish(&self, service: usize) {
        self.filter("-A", service).expect("it took such rules before");
    }

    pub fn appear(&self, service: usize) {
        self.filter("-D", service).expect("they are there");
    }

    fn filter(&self, what: &str, service: usize) -> Result<(), String> {
        let port = PORTS[service];
        run("iptables", &format!("-w {what} INPUT -p tcp --dport {port} -j DROP"))?;
        run("iptables", &format!("-w {what} INPUT -p tcp --sport {port} -j DROP"))
    }
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments}: {}", said.trim())) }
}
