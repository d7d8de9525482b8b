//! Whose frame leaves next on a connection that several senders share, and who may let more of them wait.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a sender may have waiting although others use up all the room.
pub const SHARE_BYTES_MIN: u64 = 16 * 1024;

/// Senders that get this much of their own beyond the room of all.
pub const SHARES_MAX: u64 = 1024;

/// Items of several senders that wait for one connection: senders take turns, each in its own order, and each gets the
/// same share of the bytes however long its items are (self-clocked fair queueing, Golestani 1994).
///
/// So a small item passes the large ones of others: it waits at most for the one that is leaving, and for those of others whose turn comes
/// within as many bytes as it has itself.
#[derive(Clone, Debug)]
pub struct Turns<S, T> {
    senders: BTreeMap<S, Sender<T>>,
    /// The first item of each sender, by the time at which its last byte would leave.
    order: BTreeSet<(u64, S)>,
    /// What the connection has given to each sender that waited all the time: the time of this table, in bytes.
    time: u64,
    bytes: u64,
    tickets: u64,
}

#[derive(Clone, Debug)]
struct Sender<T> {
    items: BTreeMap<Ticket, (u64, T)>,
    /// When its first item began to leave.
    since: u64,
    bytes: u64,
}

/// The place of an item among those of its sender.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

impl<S, T> Default for Turns<S, T> {
    fn default() -> Self {
        Turns { senders: BTreeMap::new(), order: BTreeSet::new(), time: 0, bytes: 0, tickets: 0 }
    }
}

impl<S: Copy + Ord, T> Turns<S, T> {
    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Items that wait.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether the sender may let `len` more bytes wait: as many as are free of `bytes_max`, so that of *n* that want all, each gets
    /// the *n*+1th part and one part stays free for who comes next (dynamic thresholds, Choudhury and Hahne 1998); and
    /// [`SHARE_BYTES_MIN`] in any case, of which there are [`SHARES_MAX`].
    pub fn admits(&self, sender: S, len: u64, bytes_max: u64) -> bool {
        let own = self.senders.get(&sender).map_or(0, |sender| sender.bytes) + len;
        let free = bytes_max.saturating_sub(self.bytes);
        let reserved = (bytes_max + SHARES_MAX * SHARE_BYTES_MIN).saturating_sub(self.bytes);
        own <= free || own <= SHARE_BYTES_MIN.min(reserved)
    }

    /// `item` of `len` bytes waits for the sender's turn.
    pub fn push(&mut self, sender: S, len: u64, item: T) -> Ticket {
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.bytes += len;
        let time = self.time;
        let waiting = self.senders.entry(sender).or_insert_with(|| {
            self.order.insert((time + len, sender));
            Sender { items: BTreeMap::new(), since: time, bytes: 0 }
        });
        waiting.bytes += len;
        waiting.items.insert(ticket, (len, item));
        ticket
    }

    /// The item that leaves next.
    pub fn take_next(&mut self) -> Option<T> {
        let &(time, sender) = self.order.first()?;
        self.time = time;
        let ticket = *self.senders.get(&sender)?.items.first_key_value()?.0;
        self.take(sender, ticket)
    }

    /// Takes an item that is not to leave any more; those behind it move up.
    pub fn give_up(&mut self, sender: S, ticket: Ticket) -> Option<T> {
        self.take(sender, ticket)
    }

    fn take(&mut self, key: S, ticket: Ticket) -> Option<T> {
        let sender = self.senders.get_mut(&key)?;
        let (&first, &(first_len, _)) = sender.items.first_key_value()?;
        let (len, item) = sender.items.remove(&ticket)?;
        self.bytes -= len;
        sender.bytes -= len;
        if ticket != first {
            return Some(item);
        }
        self.order.remove(&(sender.since + first_len, key));
        // Nobody catches up with what others got while its item waited that has been given up.
        sender.since = sender.since.max(self.time);
        match sender.items.first_key_value() {
            Some((_, &(next, _))) => drop(self.order.insert((sender.since + next, key))),
            // Who has nothing to send saves nothing up, and owes nothing.
            None => drop(self.senders.remove(&key)),
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(turns: &mut Turns<u8, (u8, u64)>) -> Vec<(u8, u64)> {
        std::iter::from_fn(|| turns.take_next()).collect()
    }

    #[test]
    fn small_ones_pass_large_ones_of_others() {
        let mut turns = Turns::default();
        for number in 0..4 {
            turns.push(1, 2 << 20, (1, number));
        }
        turns.push(2, 100, (2, 0));
        turns.push(2, 100, (2, 1));
        assert_eq!(turns.bytes(), (8 << 20) + 200);
        assert_eq!(drain(&mut turns), [(2, 0), (2, 1), (1, 0), (1, 1), (1, 2), (1, 3)]);
        assert_eq!(turns.bytes(), 0);
    }

    #[test]
    fn equal_senders_take_turns() {
        let mut turns = Turns::default();
        for number in 0..3 {
            for sender in [1, 2] {
                turns.push(sender, 5_000, (sender, number));
            }
        }
        assert_eq!(drain(&mut turns), [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]);
    }

    /// The items behind one that was given up leave as if it had never been there.
    #[test]
    fn what_was_given_up_takes_no_turn() {
        let mut turns = Turns::default();
        turns.push(2, 1 << 20, (2, 0));
        let large: Vec<Ticket> = (0..3).map(|number| turns.push(1, 8 << 20, (1, number))).collect();
        turns.push(1, 100, (1, 3));
        for (number, ticket) in large.into_iter().enumerate() {
            assert_eq!(turns.give_up(1, ticket), Some((1, number as u64)));
            assert_eq!(turns.give_up(1, ticket), None);
        }
        assert_eq!(turns.bytes(), (1 << 20) + 100);
        assert_eq!(drain(&mut turns), [(1, 3), (2, 0)]);
        assert!(turns.senders.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn who_floods_leaves_room_for_others() {
        const MAX: u64 = 1 << 20;
        let mut turns = Turns::default();
        let flood = |turns: &mut Turns<u8, ()>, sender| {
            while turns.admits(sender, 10_000, MAX) {
                turns.push(sender, 10_000, ());
            }
            turns.senders[&sender].bytes
        };
        let halves = [flood(&mut turns, 1), MAX - turns.bytes()];
        assert!(halves.iter().all(|half| half.abs_diff(MAX / 2) <= 10_000), "{halves:?}");
        assert!(!turns.admits(1, 10_000, MAX), "it has more than is free");
        assert!(turns.admits(2, 100_000, MAX), "others do not have to care");
        flood(&mut turns, 2);
        assert!(MAX - turns.bytes() > MAX / 5, "and there is always some left");
    }

    proptest! {
        /// However many senders there are, with whatever they let wait.
        #[test]
        fn all_together_are_bounded(pushes in proptest::collection::vec((0u16..3_000, 1u64..40_000), 1..6_000)) {
            const MAX: u64 = 100_000;
            let mut turns = Turns::default();
            for &(sender, len) in &pushes {
                if turns.admits(sender, len, MAX) {
                    turns.push(sender, len, ());
                }
            }
            prop_assert!(turns.bytes() <= MAX + SHARES_MAX * SHARE_BYTES_MIN);
            // While shares are left, nobody is refused a small one.
            if turns.bytes() + 100 <= MAX + SHARES_MAX * SHARE_BYTES_MIN {
                prop_assert!(turns.admits(3_000, 100, MAX));
            }
        }

        /// What leaves, and in which order, is what it would be had the items that were given up never come.
        #[test]
        fn giving_up_leaves_no_trace(items in proptest::collection::vec((0u8..4, 1u64..50_000, any::<bool>()), 0..60)) {
            let (mut with, mut without) = (Turns::default(), Turns::default());
            let mut leaves = Vec::new();
            for &(sender, len, stays) in &items {
                let ticket = with.push(sender, len, (sender, len));
                if stays {
                    without.push(sender, len, (sender, len));
                } else {
                    leaves.push((sender, ticket));
                }
            }
            for (sender, ticket) in leaves {
                prop_assert!(with.give_up(sender, ticket).is_some());
            }
            prop_assert_eq!(with.bytes(), without.bytes());
            prop_assert_eq!(drain(&mut with), drain(&mut without));
        }

        #[test]
        fn each_item_comes_once_in_its_senders_order(items in proptest::collection::vec((0u8..5, 0u64..100_000), 0..60)) {
            let mut turns = Turns::default();
            for &(sender, len) in &items {
                turns.push(sender, len, (sender, len));
            }
            prop_assert_eq!(turns.bytes(), items.iter().map(|item| item.1).sum::<u64>());
            let out = drain(&mut turns);
            for sender in 0..5 {
                let of = |list: &[(u8, u64)]| -> Vec<_> { list.iter().copied().filter(|item| item.0 == sender).collect() };
                prop_assert_eq!(of(&out), of(&items));
            }
            prop_assert!(turns.is_empty());
        }

        /// While both have items, neither gets more than an item ahead of the other.
        #[test]
        fn shares_are_equal(lens in proptest::collection::vec((1u64..50_000, 1u64..50_000), 40)) {
            let mut turns = Turns::default();
            for &(one, other) in &lens {
                turns.push(1, one, (1, one));
                turns.push(2, other, (2, other));
            }
            let mut left = [40, 40];
            let mut sent = [0u64; 2];
            while let Some((sender, len)) = turns.take_next() {
                let at = sender as usize - 1;
                left[at] -= 1;
                sent[at] += len;
                if left.contains(&0) {
                    break;
                }
                prop_assert!(sent[0].abs_diff(sent[1]) <= 50_000, "{sent:?}");
            }
        }
    }
}
