//! What a driver's tag stands for.

use shmesh_io::Tag;

/// What an event is about.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Token {
    /// A listener, by its index in the worker.
    Listener(usize),
    /// A connection, as `Key::to_tag` says it.
    Conn(u64),
    /// A session's doorbell.
    Session(u64),
    /// A socket that nobody owns yet.
    None,
}

const SHIFT: u32 = 56;

impl Token {
    /// The tag that comes back with each event.
    pub fn tag(self) -> Tag {
        match self {
            Token::None => 0,
            Token::Listener(index) => 1 << SHIFT | index as u64,
            Token::Conn(key) => 2 << SHIFT | key,
            Token::Session(id) => 3 << SHIFT | id,
        }
    }

    /// Reads a tag.
    pub fn of(tag: Tag) -> Token {
        let rest = tag & ((1 << SHIFT) - 1);
        match tag >> SHIFT {
            1 => Token::Listener(rest as usize),
            2 => Token::Conn(rest),
            3 => Token::Session(rest),
            _ => Token::None,
        }
    }
}
