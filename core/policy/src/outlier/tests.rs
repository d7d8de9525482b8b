use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const SPEC: OutlierDetection = OutlierDetection {
    consecutive_local_origin_failure: 3,
    consecutive_gateway_failure: 2,
    consecutive_5xx: 4,
    base_ejection_time: Duration::from_secs(10),
    max_ejection_time: Duration::from_secs(25),
    max_ejection_percent: 50,
};

/// Outcomes of endpoint 1 out of four, all at `now`; the last one's effect.
fn after(outliers: &mut Outliers<u32>, outcomes: &[Outcome], now: u64) -> Option<Ejection> {
    let mut last = None;
    for &outcome in outcomes {
        last = outliers.observe(&SPEC, &1, outcome, 4, now);
    }
    last
}

use Outcome::{GatewayFailure as Gateway, Good, LocalOriginFailure as Silent, ServerError as Error};

#[test]
fn a_row_of_failures_is_an_ejection_and_anything_else_ends_the_row() {
    let first = Some(Ejection { time: Duration::from_secs(10), times: 1 });
    for (outcomes, expected) in [
        (&[Silent, Silent, Silent][..], first),
        (&[Silent, Silent], None),
        (&[Silent, Silent, Good, Silent, Silent], None),
        (&[Silent, Silent, Error, Silent, Silent], None),
        (&[Gateway, Gateway], first),
        (&[Gateway, Good, Gateway], None),
        (&[Gateway, Error, Gateway], None),
        (&[Gateway, Silent, Gateway], first),
        (&[Error, Error, Error, Error], first),
        (&[Error, Gateway, Error, Gateway], first),
        (&[Error, Error, Error, Good, Error], None),
    ] {
        let mut outliers = Outliers::default();
        assert_eq!(after(&mut outliers, outcomes, 7), expected, "{outcomes:?}");
        assert_eq!(outliers.is_out(&1), expected.is_some(), "{outcomes:?}");
        assert!(!outliers.is_out(&2));
    }
}

#[test]
fn zero_is_never() {
    let mut outliers = Outliers::default();
    let spec = OutlierDetection {
        consecutive_local_origin_failure: 0,
        consecutive_gateway_failure: 0,
        consecutive_5xx: 0,
        ..SPEC
    };
    for outcome in [Silent, Gateway, Error].repeat(50) {
        assert_eq!(outliers.observe(&spec, &1, outcome, 4, 0), None);
    }
    for _ in 0..50 {
        let none = OutlierDetection { max_ejection_percent: 0, ..SPEC };
        assert_eq!(outliers.observe(&none, &1, Silent, 4, 0), None);
    }
}

#[test]
fn it_comes_back_after_its_time_and_stays_away_longer_the_next_time() {
    let mut outliers = Outliers::default();
    let mut now = 5 * SECOND;
    for (times, seconds) in [(1, 10), (2, 20), (3, 25), (4, 25)] {
        let ejection = after(&mut outliers, &[Silent; 3], now);
        assert_eq!(ejection, Some(Ejection { time: Duration::from_secs(seconds), times }));
        assert_eq!(outliers.next_return(), Some(now + seconds * SECOND));
        // What ends meanwhile changes nothing, good or bad.
        assert_eq!(after(&mut outliers, &[Silent, Good, Silent, Silent, Silent], now + SECOND), None);
        assert!(outliers.returned(now + seconds * SECOND - 1).is_empty() && outliers.is_out(&1));
        now += seconds * SECOND;
        assert_eq!(outliers.returned(now), [1]);
        assert!(!outliers.is_out(&1) && outliers.next_return().is_none());
        assert_eq!(after(&mut outliers, &[Silent, Silent], now), None, "the row begins anew");
        after(&mut outliers, &[Good], now);
    }
    // One ejection is forgotten for each ten seconds that it is back: three of four.
    after(&mut outliers, &[Good], now + 30 * SECOND);
    assert!(!outliers.is_quiet());
    assert_eq!(after(&mut outliers, &[Silent; 3], now + 30 * SECOND).map(|ejection| ejection.times), Some(2));
    outliers.returned(now + 50 * SECOND);
    after(&mut outliers, &[Good], now + 70 * SECOND);
    assert!(outliers.is_quiet(), "all of them");
}

#[test]
fn some_are_always_in_turn() {
    let eject = |outliers: &mut Outliers<u32>, endpoint, endpoints| {
        (0..3).any(|_| outliers.observe(&SPEC, &endpoint, Silent, endpoints, 0).is_some())
    };
    for (endpoints, may_be_out) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
        let mut outliers = Outliers::default();
        let out = (0..endpoints).filter(|&endpoint| eject(&mut outliers, endpoint, endpoints as usize)).count();
        assert_eq!((out, outliers.out()), (may_be_out, may_be_out), "of {endpoints}");
        if may_be_out > 0 {
            // Whoever waits for a place takes it with its next failure.
            outliers.returned(10 * SECOND);
            let late = endpoints - 1;
            assert!(outliers.observe(&SPEC, &late, Silent, endpoints as usize, 10 * SECOND).is_some());
        }
    }
    let few = OutlierDetection { max_ejection_percent: 1, ..SPEC };
    let mut outliers = Outliers::default();
    let out = (0..5).filter(|endpoint| (0..3).any(|_| outliers.observe(&few, endpoint, Silent, 5, 0).is_some()));
    assert_eq!(out.count(), 1, "one in any case");
}

#[test]
fn what_is_held_against_endpoints_is_bounded() {
    let mut outliers = Outliers::default();
    for endpoint in 0..2 * SUSPECTS_MAX {
        outliers.observe(&SPEC, &endpoint, Silent, usize::MAX / 200, 0);
    }
    assert_eq!(outliers.suspects.len(), SUSPECTS_MAX);
}

proptest! {
    /// Whatever happens: never more out than may be, none without a row, each for its time, and a row beside room is an ejection.
    #[test]
    fn the_rules_hold(events in proptest::collection::vec((0..6_u32, 0..4_u8, 0..4 * SECOND), 1..400), percent in 0..101_u32) {
        let spec = OutlierDetection { max_ejection_percent: percent, ..SPEC };
        let mut outliers = Outliers::default();
        let mut rows = [0; 6];
        let mut until = [None; 6];
        let mut now = 0;
        for (endpoint, outcome, later) in events {
            now += later;
            for back in outliers.returned(now) {
                prop_assert!(until[back as usize].take().is_some_and(|until| until <= now));
                rows[back as usize] = 0;
            }
            let outcome = [Good, Silent, Silent, Silent][usize::from(outcome)];
            let out = until.iter().flatten().count();
            let was_out = until[endpoint as usize].is_some();
            if !was_out {
                rows[endpoint as usize] = if outcome == Silent { rows[endpoint as usize] + 1 } else { 0 };
            }
            let room = percent > 0 && (out == 0 || (out + 1) * 100 <= percent as usize * 6);
            let ejected = outliers.observe(&spec, &endpoint, outcome, 6, now);
            prop_assert_eq!(ejected.is_some(), !was_out && rows[endpoint as usize] >= 3 && room);
            if let Some(Ejection { time, times }) = ejected {
                prop_assert_eq!(time, (spec.base_ejection_time * times).min(spec.max_ejection_time));
                until[endpoint as usize] = Some(now + time.as_nanos() as u64);
            }
            for (endpoint, until) in until.iter().enumerate() {
                prop_assert_eq!(outliers.is_out(&(endpoint as u32)), until.is_some());
            }
        }
    }
}
