//! A forwarder that parses nothing: what comes from one side goes to the other as it came, through the drivers that the sidecar
//! runs on. What it costs no proxy on these drivers can save; what the sidecar costs beyond it is its own.

use std::net::{SocketAddr, TcpListener};

use shmesh_io::{Chunk, Chunks, Driver, EpollDriver, Event, Limits, SockId, Target, UringDriver, Wait};

/// The tag of the listener; connections have the position of their pair, and which end of it they are.
const LISTENER: u64 = u64::MAX;

/// A client's connection and the one to the service.
#[derive(Default)]
struct Pair {
    ends: [End; 2],
}

#[derive(Default)]
struct End {
    sock: Option<SockId>,
    connected: bool,
    sending: bool,
    /// What waits for the end of a send, or for the connection.
    out: Chunks,
}

/// Forwards connections to `listen` to `service` until it is ended.
pub fn run(driver: &str, listen: &str, service: &str) -> Result<(), String> {
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|error| format!("{text}: {error}"));
    let (listen, service) = (address(listen)?, Target::Tcp(address(service)?));
    let limits = Limits::default();
    match driver {
        "epoll" => forward(EpollDriver::new(limits).map_err(|error| error.to_string())?, listen, &service),
        _ => forward(UringDriver::new(limits).map_err(|error| error.to_string())?, listen, &service),
    }
}

fn forward(mut driver: impl Driver, listen: SocketAddr, service: &Target) -> Result<(), String> {
    let fault = |error: std::io::Error| format!("the forwarder: {error}");
    let listener = TcpListener::bind(listen).map_err(fault)?;
    driver.listen(listener.into(), LISTENER).map_err(fault)?;
    eprintln!("{}", super::UP);
    let mut pairs: Vec<Pair> = Vec::new();
    let mut events = Vec::new();
    let mut wait = Wait::Forever;
    loop {
        driver.poll(std::mem::replace(&mut wait, Wait::Forever), &mut events).map_err(fault)?;
        for event in events.drain(..) {
            match event {
                Event::Accepted { sock, .. } => {
                    let at = pairs.len() as u64 * 2;
                    driver.set_tag(sock, at);
                    driver.start_recv(sock);
                    let upstream = driver.connect(service, at + 1).map_err(fault)?;
                    let client = End { sock: Some(sock), connected: true, ..End::default() };
                    pairs.push(Pair { ends: [client, End { sock: Some(upstream), ..End::default() }] });
                }
                Event::Connected { tag, sock, result } => {
                    result.map_err(fault)?;
                    pairs[tag as usize / 2].ends[1].connected = true;
                    driver.start_recv(sock);
                    flush(&mut driver, &mut pairs[tag as usize / 2].ends[1], &mut wait);
                }
                Event::Received { tag, data, .. } => {
                    let other = &mut pairs[tag as usize / 2].ends[1 - tag as usize % 2];
                    other.out.push(Chunk::Private(data));
                    flush(&mut driver, other, &mut wait);
                }
                Event::Sent { tag, chunks, .. } => {
                    let end = &mut pairs[tag as usize / 2].ends[tag as usize % 2];
                    end.sending = false;
                    if end.out.is_empty() {
                        end.out = chunks;
                    }
                    flush(&mut driver, end, &mut wait);
                }
                Event::Ended { tag, .. } => {
                    for end in &mut pairs[tag as usize / 2].ends {
                        if let Some(sock) = end.sock.take() {
                            driver.close(sock);
                        }
                    }
                }
                Event::AcceptPaused { .. } | Event::Landed { .. } | Event::Rung { .. } | Event::Woken => {}
            }
        }
    }
}

/// Sends what waits, unless a send is under way: then the next `poll` is to tell how that ended.
fn flush(driver: &mut impl Driver, end: &mut End, wait: &mut Wait) {
    let Some(sock) = end.sock.filter(|_| end.connected && !end.out.is_empty()) else { return };
    if end.sending {
        *wait = Wait::Now;
    } else {
        end.sending = true;
        driver.send_unawaited(sock, std::mem::take(&mut end.out));
    }
}
