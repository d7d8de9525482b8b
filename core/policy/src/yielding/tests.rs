use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
/// Between two times.
const EVERY: u64 = 100 * MS;

const PRESSED: Load = Load { cpu_permille: Some(950), lag: None };
const BETWEEN: Load = Load { cpu_permille: Some(800), lag: None };
const CALM: Load = Load { cpu_permille: Some(600), lag: None };

struct Run {
    yielding: Yielding,
    now: u64,
    spec: YieldSpec,
}

impl Run {
    fn new() -> Run {
        Run { yielding: Yielding::new(0), now: 0, spec: YieldSpec::default() }
    }

    fn tell(&mut self, load: Load) -> u16 {
        self.now += EVERY;
        self.yielding.tell(self.now, load, &self.spec)
    }

    /// Calm until there is no share: how long that takes.
    fn come_back(&mut self) -> u64 {
        let began = self.now;
        while self.tell(CALM) > 0 {
            assert!(self.now - began < 100_000 * MS, "it does not end");
        }
        self.now - began
    }
}

#[test]
fn a_burst_is_no_reason_and_pressure_that_stays_is_one() {
    let mut run = Run::new();
    assert_eq!([run.tell(PRESSED), run.tell(PRESSED), run.tell(CALM)], [0, 0, 0]);
    assert_eq!([run.tell(PRESSED), run.tell(PRESSED), run.tell(PRESSED), run.tell(PRESSED)], [0, 0, 100, 200]);
    assert_eq!(run.yielding.reason(), Some(Reason::Quota));
}

#[test]
fn what_is_between_changes_nothing() {
    let mut run = Run::new();
    // It does not make up for pressure, either.
    assert_eq!(
        [PRESSED, BETWEEN, PRESSED, BETWEEN, PRESSED, BETWEEN].map(|load| run.tell(load)),
        [0, 0, 0, 0, 100, 100]
    );
    for _ in 0..1000 {
        assert_eq!(run.tell(BETWEEN), 100);
    }
}

#[test]
fn the_share_has_a_bound_and_shrinks_after_a_while() {
    let mut run = Run::new();
    let grown: Vec<u16> = (0..20).map(|_| run.tell(PRESSED)).collect();
    assert_eq!(*grown.last().expect("twenty"), 900);
    let took = run.come_back();
    assert_eq!(took, PATIENCE_MIN + u64::from(900 / LOWER) * EVERY);
    assert_eq!((run.yielding.share(), run.yielding.reason()), (0, None));
}

#[test]
fn each_relapse_doubles_the_patience_and_health_makes_it_short_again() {
    let mut run = Run::new();
    let mut patience = Vec::new();
    for _ in 0..7 {
        (0..PRESSED_MIN).for_each(|_| assert!(run.tell(PRESSED) <= 900));
        assert_eq!(run.yielding.share(), 100);
        patience.push((run.come_back() - 10 * EVERY) / MS);
    }
    assert_eq!(patience, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    run.now += HEALTH;
    run.tell(CALM);
    (0..PRESSED_MIN).for_each(|_| assert!(run.tell(PRESSED) <= 900));
    // It is doubled once, as this is a relapse in any case.
    assert_eq!((run.come_back() - 10 * EVERY) / MS, 2000);
}

#[test]
fn the_lag_counts_only_where_it_has_a_bound() {
    let late = Load { cpu_permille: None, lag: Some(Duration::from_millis(9)) };
    let mut run = Run::new();
    (0..10).for_each(|_| assert_eq!(run.tell(late), 0));
    run.spec.lag = Some(Duration::from_millis(5));
    assert_eq!([late, late, late].map(|load| run.tell(load)), [0, 0, 100]);
    assert_eq!(run.yielding.reason(), Some(Reason::Lag));
    // The quota may be calm: one of the two is enough, and both have to be calm again.
    assert_eq!(run.tell(Load { cpu_permille: Some(10), ..late }), 200);
    let less = Load { cpu_permille: Some(10), lag: Some(Duration::from_millis(4)) };
    (0..100).for_each(|_| assert_eq!(run.tell(less), 200));
}

#[test]
fn switched_off_it_yields_nothing_at_once() {
    let mut run = Run::new();
    (0..9).for_each(|_| assert!(run.tell(PRESSED) <= 900));
    run.spec.max_percent = 30;
    assert_eq!(run.tell(PRESSED), 300);
    run.spec.enabled = false;
    assert_eq!(run.tell(PRESSED), 0);
    assert_eq!(run.yielding.reason(), None);
}

#[test]
fn low_priority_goes_first_and_high_priority_last() {
    let shares = |of_all| Priority::ALL.map(|priority| priority.share(of_all));
    assert_eq!(shares(0), [0, 0, 0]);
    assert_eq!(shares(100), [200, 100, 0]);
    assert_eq!(shares(500), [1000, 500, 0]);
    assert_eq!(shares(900), [1000, 900, 800]);
    assert_eq!(shares(u16::MAX), [1000, 1000, 1000]);
}

fn any_load() -> impl Strategy<Value = Load> {
    (prop::option::of(0u32..1500), prop::option::of(0u64..20))
        .prop_map(|(cpu_permille, lag)| Load { cpu_permille, lag: lag.map(Duration::from_millis) })
}

proptest! {
    /// Whatever is measured, and however long apart: the share keeps to its bound, grows only under pressure, shrinks only after all has been
    /// calm for the shortest patience, and is gone when all has been calm for long enough.
    #[test]
    fn it_does_not_flap(
        times in prop::collection::vec((any_load(), 1u64..2_000), 1..400),
        max_percent in 1u32..=100,
    ) {
        let spec = YieldSpec { lag: Some(Duration::from_millis(10)), max_percent, ..YieldSpec::default() };
        let (mut yielding, mut now, mut share) = (Yielding::new(0), 0, 0);
        let mut uneasy = 0;
        for (load, passes) in times {
            now += passes * MS;
            let is_calm = matches!(pressure(load, &spec), Pressure::Calm);
            let is_pressed = matches!(pressure(load, &spec), Pressure::Pressed(_));
            let next = yielding.tell(now, load, &spec);
            prop_assert!(u32::from(next) <= 10 * max_percent);
            prop_assert!(next <= share || is_pressed && next - share <= RAISE);
            // Since the first calm time after the last uneasy one; which is later than that.
            prop_assert!(next >= share || is_calm && now - uneasy > PATIENCE_MIN && share - next <= LOWER);
            prop_assert_eq!(next == 0, yielding.reason().is_none());
            if !is_calm {
                uneasy = now;
            }
            share = next;
        }
        let last = now;
        while now < last + PATIENCE_MAX + 101 * EVERY {
            now += EVERY;
            yielding.tell(now, CALM, &spec);
        }
        prop_assert_eq!(yielding.share(), 0);
    }

    /// With a load that goes away as the share says, of up to five times what the quota bears, and with noise: it comes to rest, below the
    /// bound where it can.
    #[test]
    fn it_comes_to_rest(offered in 500u32..5000, noise in prop::collection::vec(0u32..80, 3000)) {
        let mut run = Run::new();
        let (mut turns, mut grew, mut share) = (0, true, 0);
        for (at, noise) in noise.iter().enumerate() {
            let left = offered * (1000 - u32::from(share)) / 1000;
            let next = run.tell(Load { cpu_permille: Some((left * (960 + noise) / 1000).min(1000)), lag: None });
            // Of five minutes the first is for finding its place.
            if next != share && (next > share) != grew && at >= 600 {
                turns += 1;
            }
            (grew, share) = (if next == share { grew } else { next > share }, next);
        }
        prop_assert!(turns <= 12, "{turns} turns in four minutes");
        let left = offered * (1000 - u32::from(share)) / 1000;
        prop_assert!(left * 960 / 1000 < 900 || share == 900, "{left} is left at {share}");
    }
}
