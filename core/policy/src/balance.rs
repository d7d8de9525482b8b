//! Which endpoint of a cluster is next.

/// Takes the endpoints of a cluster in turn. Each worker keeps one for each cluster.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// Starts at an endpoint of its own (by random, say), so that many workers do not all begin with the first one.
    pub fn starting_at(start: usize) -> RoundRobin {
        RoundRobin { next: start }
    }

    /// Where the next one starts, for who goes on with it.
    pub fn position(&self) -> usize {
        self.next
    }

    /// The index of the next endpoint out of `endpoints`, which may differ from call to call. 0 when there is none.
    pub fn pick(&mut self, endpoints: usize) -> usize {
        if endpoints == 0 {
            return 0;
        }
        if self.next >= endpoints {
            self.next %= endpoints;
        }
        self.next += 1;
        self.next - 1
    }

    /// The order in which one call tries the endpoints: the next one in turn, and those behind it when it refuses;
    /// each once. The turn moves on by one, however many refuse.
    pub fn tries(&mut self, endpoints: usize) -> Tries {
        let first = self.pick(endpoints);
        Tries { next: first, left: endpoints, endpoints }
    }
}

/// Endpoints that a call has not tried yet, in order; plain data, to be kept beside the call.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    next: usize,
    left: usize,
    endpoints: usize,
}

impl Iterator for Tries {
    type Item = usize;

    /// The index of the endpoint to try; `None` when all refused.
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let index = self.next;
        self.left -= 1;
        self.next = if index + 1 == self.endpoints { 0 } else { index + 1 };
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Tries {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_turns() {
        let mut turn = RoundRobin::default();
        let picked: Vec<usize> = (0..7).map(|_| turn.pick(3)).collect();
        assert_eq!(picked, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn stays_in_range_when_the_number_changes() {
        let mut turn = RoundRobin::starting_at(usize::MAX);
        for endpoints in [5, 1, 0, 2, 9, 1, 3] {
            let picked = turn.pick(endpoints);
            assert!(picked < endpoints.max(1), "{picked} of {endpoints}");
        }
    }

    #[test]
    fn refusals_reach_each_endpoint_once() {
        let mut turn = RoundRobin::default();
        assert_eq!(turn.tries(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(turn.tries(3).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(turn.tries(3).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(turn.tries(1).collect::<Vec<_>>(), [0]);
        assert_eq!(turn.tries(0).next(), None);
    }
}
