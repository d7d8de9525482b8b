//! Whose frame leaves next on a connection that several senders share.

use std::collections::{BTreeMap, VecDeque};

/// Bytes that a sender may send more each time its turn comes.
pub const TURN_BYTES: u64 = 16 * 1024;

/// Items of several senders that wait for one connection: senders take turns, each in its own order, and each gets the
/// same share of the bytes however long its items are (deficit round robin, Shreedhar and Varghese 1995).
///
/// So an item waits at most for the one that is leaving, and for as many bytes of each other sender as its own has, or
/// [`TURN_BYTES`] if that is more.
#[derive(Clone, Debug)]
pub struct Turns<S, T> {
    senders: BTreeMap<S, Sender<T>>,
    /// The senders that have items, the next one first.
    order: VecDeque<S>,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Sender<T> {
    items: VecDeque<(u64, T)>,
    /// What it may send yet.
    credit: u64,
}

impl<S, T> Default for Turns<S, T> {
    fn default() -> Self {
        Turns { senders: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }
    }
}

impl<S: Copy + Ord, T> Turns<S, T> {
    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// `item` of `len` bytes waits for the sender's turn.
    pub fn push(&mut self, sender: S, len: u64, item: T) {
        self.bytes += len;
        let waiting = self.senders.entry(sender).or_insert_with(|| {
            self.order.push_back(sender);
            Sender { items: VecDeque::new(), credit: 0 }
        });
        waiting.items.push_back((len, item));
    }

    /// The item that leaves next.
    pub fn take_next(&mut self) -> Option<T> {
        loop {
            let &first = self.order.front()?;
            let sender = self.senders.get_mut(&first)?;
            let &(len, _) = sender.items.front()?;
            if len > sender.credit {
                sender.credit += TURN_BYTES;
                self.order.rotate_left(1);
                continue;
            }
            sender.credit -= len;
            self.bytes -= len;
            let item = sender.items.pop_front().map(|(_, item)| item);
            if sender.items.is_empty() {
                // Who has nothing to send saves nothing up.
                self.senders.remove(&first);
                self.order.pop_front();
            }
            return item;
        }
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
                turns.push(sender, TURN_BYTES, (sender, number));
            }
        }
        assert_eq!(drain(&mut turns), [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]);
    }

    proptest! {
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

        /// While both have items, neither gets more than a turn and an item ahead of the other.
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
                prop_assert!(sent[0].abs_diff(sent[1]) <= TURN_BYTES + 50_000, "{sent:?}");
            }
        }
    }
}
