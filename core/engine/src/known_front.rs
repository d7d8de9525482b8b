//! The strings in front of Dubbo requests' arguments: those that came before are known again by comparing, not read again.

use shmesh_policy::{Snapshot, Way};
use shmesh_proto::dubbo::{Peek, PeekError, PeekOutcome, peek_request};

/// How many fronts a worker knows. 16: they are compared one after the other, and that has to be cheaper than reading one.
const FRONTS_MAX: usize = 16;

/// Longer fronts are read each time.
const FRONT_BYTES_MAX: usize = 1024;

/// The fronts that a worker saw last; those that come often are found first.
#[derive(Default)]
pub struct KnownFronts {
    list: Vec<Front>,
}

/// A front as it came, and what was read.
///
/// Each of its strings says where it ends, so that another body that begins with the same bytes has the same front.
pub struct Front {
    serialization: u8,
    /// Empty: it is not to be known again.
    bytes: Vec<u8>,
    pub peek: Peek,
    /// Where calls with it go, if it alone decides: the snapshot's version, and the way.
    routed: Option<(u64, Way)>,
}

impl Front {
    /// Where calls with this front go, if that was found out for this snapshot.
    pub fn routed(&self, snapshot: &Snapshot) -> Option<Way> {
        self.routed.and_then(|(version, way)| (version == snapshot.version).then_some(way))
    }

    /// Calls with this front go there, whatever else they say.
    pub fn set_routed(&mut self, snapshot: &Snapshot, way: Way) {
        self.routed = Some((snapshot.version, way));
    }
}

impl KnownFronts {
    /// The front of a whole body; says also whether it had to be read.
    pub fn front(&mut self, serialization: u8, body: &[u8]) -> Result<(&mut Front, bool), FrontError> {
        let known = self.list.iter().position(|front| {
            front.serialization == serialization && !front.bytes.is_empty() && body.starts_with(&front.bytes)
        });
        if let Some(at) = known {
            // One place towards the front: what is rare does not push away what is frequent.
            let place = at.saturating_sub(1);
            self.list.swap(at, place);
            return Ok((&mut self.list[place], false));
        }
        let peek = match peek_request(serialization, body, true) {
            Ok(PeekOutcome::Done(peek)) => peek,
            Ok(PeekOutcome::NeedMore) => return Err(FrontError::Incomplete),
            Err(error) => return Err(FrontError::Flaw(error)),
        };
        let len = peek.front_len().filter(|&len| len <= FRONT_BYTES_MAX);
        let bytes = len.map(|len| &body[..len]);
        if self.list.len() < FRONTS_MAX {
            self.list.push(Front { serialization, bytes: Vec::new(), peek, routed: None });
        } else if let Some(last) = self.list.last_mut() {
            last.serialization = serialization;
            last.peek = peek;
            last.routed = None;
        }
        let at = self.list.len() - 1;
        let last = &mut self.list[at];
        last.bytes.clear();
        last.bytes.extend_from_slice(bytes.unwrap_or_default());
        Ok((last, true))
    }
}

/// Why a body has no front.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    #[error("the body ends before the arguments begin")]
    Incomplete,
    #[error(transparent)]
    Flaw(PeekError),
}

#[cfg(test)]
mod tests {
    use shmesh_policy::ClusterId;
    use shmesh_proto::dubbo::{HEADER_LEN, Invocation, serialization, write_request};

    use super::*;

    fn body(serialization: u8, method: &str, argument: &str) -> Vec<u8> {
        let invocation = Invocation {
            path: "com.demo.GreetService",
            method,
            argument: Some(argument.as_bytes()),
            ..Invocation::default()
        };
        let mut frame = Vec::new();
        write_request(&mut frame, 1, true, serialization, &invocation);
        frame.split_off(HEADER_LEN)
    }

    #[test]
    fn what_came_before_is_known_again_and_the_same() {
        let mut known = KnownFronts::default();
        let mut read = 0;
        for round in 0..5 {
            for serialization in [serialization::HESSIAN2, serialization::FASTJSON2] {
                for method in ["m", "mm", "sayHello", "sayHello2"] {
                    let body = body(serialization, method, &"a".repeat(round * 100));
                    let Ok(PeekOutcome::Done(expected)) = peek_request(serialization, &body, true) else { panic!() };
                    let (front, is_new) = known.front(serialization, &body).unwrap();
                    assert_eq!(front.peek, expected);
                    read += usize::from(is_new);
                }
            }
        }
        assert_eq!(read, 8, "each once");
    }

    #[test]
    fn the_same_bytes_are_another_front_in_another_serialization() {
        let mut known = KnownFronts::default();
        let body = body(serialization::HESSIAN2, "m", "a");
        assert!(known.front(serialization::HESSIAN2, &body).is_ok());
        assert!(known.front(serialization::FASTJSON2, &body).is_err());
        assert!(known.front(serialization::HESSIAN2, &body[..10]).is_err());
        assert!(!known.front(serialization::HESSIAN2, &body).unwrap().1);
    }

    #[test]
    fn the_frequent_ones_stay_and_long_ones_are_read_each_time() {
        let mut known = KnownFronts::default();
        let frequent = body(serialization::HESSIAN2, "frequent", "a");
        known.front(serialization::HESSIAN2, &frequent).unwrap();
        for other in 0..1000 {
            let rare = body(serialization::HESSIAN2, &format!("rare{other}"), "a");
            assert!(known.front(serialization::HESSIAN2, &rare).unwrap().1);
            assert!(!known.front(serialization::HESSIAN2, &frequent).unwrap().1, "{other}");
        }
        assert_eq!(known.list.len(), FRONTS_MAX);
        let long = body(serialization::HESSIAN2, &"m".repeat(FRONT_BYTES_MAX), "a");
        for _ in 0..3 {
            let (front, is_new) = known.front(serialization::HESSIAN2, &long).unwrap();
            assert!(is_new && front.peek.method.of(&long).len() == FRONT_BYTES_MAX);
        }
    }

    #[test]
    fn where_a_front_goes_holds_for_one_snapshot() {
        let mut known = KnownFronts::default();
        let way = Way::to(ClusterId(7));
        let body = body(serialization::HESSIAN2, "m", "a");
        let (old, new) =
            (Snapshot { version: 1, ..Snapshot::default() }, Snapshot { version: 2, ..Snapshot::default() });
        let (front, _) = known.front(serialization::HESSIAN2, &body).unwrap();
        assert_eq!(front.routed(&old), None);
        front.set_routed(&old, way);
        let (front, _) = known.front(serialization::HESSIAN2, &body).unwrap();
        assert_eq!((front.routed(&old), front.routed(&new)), (Some(way), None));
    }
}
