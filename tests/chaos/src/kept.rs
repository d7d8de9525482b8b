//! Connections that are to outlive a sidecar, many of them: at rest, in the middle of a request, in the middle of an answer, and tunnels.

use std::io::{self, Write};
use std::time::Duration;

use crate::calls::Way;
use crate::http;
use crate::random::Random;
use crate::service::IN_HALVES;
use crate::sidecar::Setup;
use crate::stream::Stream;

/// A bound that is not reached.
const PATIENCE: Duration = Duration::from_secs(120);

/// After so many that ended nothing more is to be learned: each of them may have cost [`PATIENCE`].
const CLOSED_MAX: u64 = 3;

/// The longest body.
const BODY: u64 = 8 << 10;

/// What is going on on a connection when the sidecar is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Nothing: it is kept for later.
    Rests,
    /// A request has left in part.
    Asks,
    /// An answer has come in part.
    Hears,
}

const HABITS: [Habit; 3] = [Habit::Rests, Habit::Asks, Habit::Hears];
const WAYS: [Way; 3] = [Way::Tcp, Way::Uds, Way::Tunnel];

/// All of them.
pub struct Kept {
    connections: Vec<Connection>,
    random: Random,
    /// Connections that ended, or carried something else than they should.
    pub closed: u64,
    pub first: Option<String>,
}

struct Connection {
    way: Way,
    habit: Habit,
    stream: Stream,
    input: Vec<u8>,
    body: Vec<u8>,
    /// What is left of the request.
    rest: Vec<u8>,
}

impl Kept {
    pub fn new(setup: &Setup, connections: usize, seed: u64) -> Kept {
        let connection = |number: usize| {
            let way = WAYS[number % WAYS.len()];
            let habit = HABITS[number / WAYS.len() % HABITS.len()];
            Connection::new(setup, way, habit).unwrap_or_else(|error| panic!("a connection over {way:?}: {error}"))
        };
        let connections = (0..connections).map(connection).collect();
        Kept { connections, random: Random::new(seed), closed: 0, first: None }
    }

    /// Brings all of them to where they are to be.
    pub fn begin(&mut self, setup: &Setup) {
        self.each(setup, Connection::begin);
    }

    /// Ends what was begun. Second halves of answers may come now.
    pub fn end(&mut self, setup: &Setup) {
        self.each(setup, |connection, _| connection.end());
    }

    fn each(&mut self, setup: &Setup, mut step: impl FnMut(&mut Connection, &mut Random) -> io::Result<()>) {
        for connection in &mut self.connections {
            if self.closed >= CLOSED_MAX {
                return;
            }
            let Err(error) = step(connection, &mut self.random) else { continue };
            self.closed += 1;
            let (way, habit, body) = (connection.way, connection.habit, connection.body.len());
            self.first
                .get_or_insert_with(|| format!("a connection over {way:?} that {habit:?}, {body} bytes: {error}"));
            *connection = Connection::new(setup, way, habit).expect("a connection in place of one that ended");
        }
    }
}

impl Connection {
    fn new(setup: &Setup, way: Way, habit: Habit) -> io::Result<Connection> {
        let stream = setup.connect(way, PATIENCE)?;
        Ok(Connection { way, habit, stream, input: Vec::new(), body: Vec::new(), rest: Vec::new() })
    }

    fn begin(&mut self, random: &mut Random) -> io::Result<()> {
        // Two bytes at least: each half of an answer has one.
        self.body = (0..2 + random.below(BODY)).map(|_| b'a' + random.below(26) as u8).collect();
        let lines = if self.habit == Habit::Hears { IN_HALVES } else { "" };
        let mut request = http::request_with("POST", lines, &self.body);
        if self.habit == Habit::Asks {
            self.rest = request.split_off(1 + random.below(request.len() as u64 - 1) as usize);
        }
        (&self.stream).write_all(&request)?;
        match self.habit {
            Habit::Rests => self.answer(),
            Habit::Asks => Ok(()),
            Habit::Hears => http::receive_some(&mut &self.stream, &mut self.input),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        (&self.stream).write_all(&std::mem::take(&mut self.rest))?;
        if self.habit == Habit::Rests { Ok(()) } else { self.answer() }
    }

    fn answer(&mut self) -> io::Result<()> {
        let answer = http::receive(&mut &self.stream, &mut self.input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let is_right = answer.status() == 200 && answer.body == self.body && self.input.is_empty();
        if is_right { Ok(()) } else { Err(io::Error::other(format!("answered {}", answer.head()))) }
    }
}
