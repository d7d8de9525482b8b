//! A name server of the tests' own: as much of RFC 1035 as it takes to answer for the names that a test gives it, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// Flags of an answer (RFC 1035 §4.1.1): response, recursion desired and available; then what was cut, and the codes.
const ANSWER: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;
const SERVER_FAILURE: u16 = 2;
const NO_SUCH_NAME: u16 = 3;

/// Bytes of an answer over UDP, as nobody asks for more.
const UDP_BYTES_MAX: usize = 512;

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is said of a name.
#[derive(Clone)]
pub enum Says {
    /// These addresses, of either family, with this TTL in seconds.
    Addresses(Vec<IpAddr>, u32),
    /// Another name, which stands in for it, with this TTL.
    Alias(&'static str, u32),
    /// It does not exist; believed for so many seconds.
    NoSuchName(u32),
    /// The server cannot say.
    Failure,
    /// Nothing.
    Silence,
}

/// One address with a TTL.
pub fn at(address: &str, ttl: u32) -> Says {
    Says::Addresses(vec![address.parse().expect("an address")], ttl)
}

#[derive(Default)]
struct Zone {
    names: BTreeMap<String, Says>,
    /// Questions for A records, by name.
    asked: BTreeMap<String, usize>,
    over_tcp: usize,
}

/// A running name server.
pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
}

impl NameServer {
    /// On a free port of the loopback interface. Names that it was not told of do not exist, for a second.
    pub fn start() -> NameServer {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("bound");
        udp.set_read_timeout(Some(LOOK_EVERY)).expect("a socket");
        tcp.set_nonblocking(true).expect("a socket");
        let server = NameServer { address, zone: Arc::default(), stop: Arc::default() };
        let (zone, stop) = (server.zone.clone(), server.stop.clone());
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = udp.recv_from(&mut packet)
                    && let Some(mut answer) = answer(&mut lock(&zone), &packet[..len])
                {
                    if answer.len() > UDP_BYTES_MAX {
                        answer = truncated(&answer, len);
                    }
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let (zone, stop) = (server.zone.clone(), server.stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        let zone = zone.clone();
                        std::thread::spawn(move || serve_tcp(stream, &zone));
                    }
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        });
        server
    }

    /// From now on this is said of a name.
    pub fn say(&self, name: &str, says: Says) {
        lock(&self.zone).names.insert(name.to_owned(), says);
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.zone).asked.get(name).copied().unwrap_or(0)
    }

    /// Questions that came over TCP.
    pub fn asked_over_tcp(&self) -> usize {
        lock(&self.zone).over_tcp
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// UDP and TCP on the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("bound")) {
            return (udp, tcp);
        }
    }
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve_tcp(mut stream: TcpStream, zone: &Mutex<Zone>) {
    stream.set_nonblocking(false).expect("a socket");
    let mut len = [0; 2];
    while stream.read_exact(&mut len).is_ok() {
        let mut packet = vec![0; u16::from_be_bytes(len).into()];
        if stream.read_exact(&mut packet).is_err() {
            return;
        }
        let reply = {
            let mut zone = lock(zone);
            zone.over_tcp += 1;
            answer(&mut zone, &packet)
        };
        let Some(reply) = reply else { continue };
        let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
        if stream.write_all(&framed).is_err() {
            return;
        }
    }
}

/// The head and the question only, with the bit that says there is more.
fn truncated(answer: &[u8], len: usize) -> Vec<u8> {
    let mut short = answer[..len].to_vec();
    short[2..4].copy_from_slice(&(ANSWER | TRUNCATED).to_be_bytes());
    short[6..12].fill(0);
    short
}

/// The answer to one question; `None` is silence. Questions have no extra records, as nothing in the tests asks for EDNS.
fn answer(zone: &mut Zone, packet: &[u8]) -> Option<Vec<u8>> {
    let (name, end) = read_name(packet, 12)?;
    let kind = u16::from_be_bytes(packet.get(end..end + 2)?.try_into().ok()?);
    if kind == A {
        *zone.asked.entry(name.clone()).or_default() += 1;
    }
    let question = &packet[12..end + 4];
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut authority: Vec<Vec<u8>> = Vec::new();
    let mut code = 0;
    let mut subject = name;
    loop {
        match zone.names.get(&subject).cloned().unwrap_or(Says::NoSuchName(1)) {
            Says::Alias(other, ttl) => {
                records.push(record(&subject, CNAME, ttl, &write_name(other)));
                subject = other.to_owned();
                continue;
            }
            Says::Addresses(addresses, ttl) => {
                records.extend(addresses.iter().filter_map(|address| match (address, kind) {
                    (IpAddr::V4(ip), A) => Some(record(&subject, A, ttl, &ip.octets())),
                    (IpAddr::V6(ip), AAAA) => Some(record(&subject, AAAA, ttl, &ip.octets())),
                    _ => None,
                }));
                if records.is_empty() {
                    authority.push(start_of_authority(ttl));
                }
            }
            Says::NoSuchName(ttl) => {
                code = NO_SUCH_NAME;
                authority.push(start_of_authority(ttl));
            }
            Says::Failure => code = SERVER_FAILURE,
            Says::Silence => return None,
        }
        break;
    }
    let mut out = packet[..2].to_vec();
    for word in [ANSWER | code, 1, records.len() as u16, authority.len() as u16, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(question);
    out.extend(records.into_iter().chain(authority).flatten());
    Some(out)
}

/// A name of a question, which is never compressed, and where it ends.
fn read_name(packet: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    loop {
        let len = usize::from(*packet.get(at)?);
        let label = packet.get(at + 1..at + 1 + len)?;
        at += 1 + len;
        if len == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(label).to_lowercase());
    }
}

fn write_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut out = write_name(name);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&INTERNET.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// What says how long it may be believed that there is nothing (RFC 2308 §3).
fn start_of_authority(ttl: u32) -> Vec<u8> {
    let mut data = [write_name("ns.test"), write_name("admin.test")].concat();
    for number in [1, 3600, 600, 86_400, ttl] {
        data.extend_from_slice(&number.to_be_bytes());
    }
    record("test", SOA, ttl, &data)
}
