//! Host names: looked up by threads of their own, remembered by each worker.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::counters::lock;
use crate::mailbox::Postbox;

/// How long an answer is used. getaddrinfo tells no TTL; 30 s is what Kubernetes' own records have.
pub const TTL: Duration = Duration::from_secs(30);

/// How long "there is no such host" is believed.
pub const TTL_NEGATIVE: Duration = Duration::from_secs(2);

/// Names that one worker remembers; the oldest knowledge is dropped beyond.
pub const NAMES_MAX: usize = 4096;

/// Names looked up at the same time: a name server that does not answer holds one of them for seconds.
const THREADS: usize = 4;

/// What a worker asks.
pub struct Question {
    pub host: Box<str>,
    pub port: u16,
    pub reply_to: Postbox,
}

/// What it is told; no addresses = the name does not resolve.
#[derive(Debug)]
pub struct Answer {
    pub host: Box<str>,
    pub port: u16,
    pub addresses: Vec<SocketAddr>,
}

/// The way to the resolver's thread.
#[derive(Clone)]
pub struct Resolver(Sender<Question>);

impl Resolver {
    /// Starts the threads; they end when the last handle is dropped.
    pub fn start() -> std::io::Result<Resolver> {
        let (sender, questions) = channel::<Question>();
        let questions = Arc::new(Mutex::new(questions));
        for _ in 0..THREADS {
            let questions = questions.clone();
            thread::Builder::new().name("resolver".into()).spawn(move || answer(&questions))?;
        }
        Ok(Resolver(sender))
    }

    /// One without threads, which never answers.
    pub fn deaf() -> Resolver {
        Resolver(channel().0)
    }

    /// Asks; the answer comes by mail.
    pub fn ask(&self, question: Question) {
        // The thread lives as long as this handle.
        let _ = self.0.send(question);
    }
}

fn answer(questions: &Mutex<Receiver<Question>>) {
    loop {
        // Held while waiting: the other threads wait for the lock instead.
        let next = lock(questions).recv();
        let Ok(question) = next else { return };
        let addresses = look_up(&question.host, question.port);
        question.reply_to.resolved(Answer { host: question.host, port: question.port, addresses });
    }
}

fn look_up(host: &str, port: u16) -> Vec<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host, port).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            addresses
        }
        Err(error) => {
            tracing::warn!(host, %error, "a host name does not resolve");
            Vec::new()
        }
    }
}
