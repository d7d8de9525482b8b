//! The ways in which a peer can break the page. Any of them ends its session.

/// What a peer did that the page forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    #[error("published ran further ahead of consumed than the ring is long")]
    Published,
    #[error("consumed is behind what it was, or ahead of published")]
    Consumed,
    #[error("released ran further ahead than the release ring is long")]
    Released,
    #[error("a block was released that is not lent out")]
    ReleasedBlock,
    #[error("a record has an unknown kind")]
    Kind,
    #[error("a record has a flag that its kind does not know")]
    Flags,
    #[error("a record has a code that its kind does not know")]
    Code,
    #[error("a record names a slot that the lane does not have")]
    Slot,
    #[error("a record has a generation out of range")]
    Generation,
    #[error("a record names a route id out of range")]
    Route,
    #[error("a record's head is longer than its payload, longer than a head may be, or where none belongs")]
    Head,
    #[error("a record's payload is longer than its space")]
    Length,
    #[error("a record's block is not in the arena, or not at a multiple of 64")]
    Block,
    #[error("a record came from the side that may not send it")]
    Direction,
    #[error("a part of a payload was asked for that lies outside of it")]
    PayloadRange,
}

impl Violation {
    /// A short name for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Violation::Published => "published",
            Violation::Consumed => "consumed",
            Violation::Released => "released",
            Violation::ReleasedBlock => "released-block",
            Violation::Kind => "kind",
            Violation::Flags => "flags",
            Violation::Code => "code",
            Violation::Slot => "slot",
            Violation::Generation => "generation",
            Violation::Route => "route",
            Violation::Head => "head",
            Violation::Length => "length",
            Violation::Block => "block",
            Violation::Direction => "direction",
            Violation::PayloadRange => "payload-range",
        }
    }
}
