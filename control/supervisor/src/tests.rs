//! The state machine in all its branches, with a clock of the test's and no processes.

use super::*;

/// A supervisor, and the time.
struct World {
    supervisor: Supervisor,
    now: Instant,
}

const SETTINGS: Settings =
    Settings { stop_timeout: Duration::from_secs(40), upgrade_timeout: Duration::from_secs(30), has_config: true };

const fn start(child: u32, binary: u32, task: Task) -> Action {
    Action::Start { child: Child(child), binary: Binary(binary), task }
}

const fn signal(child: u32, signal: Signal) -> Action {
    Action::Signal { child: Child(child), signal }
}

/// Child 3 has not taken over from child 0 in time.
const ABANDON: Action = Action::Abandon { new: Child(3), old: Child(0) };

const fn forget(binary: u32) -> Action {
    Action::Forget(Binary(binary))
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl World {
    /// The sidecar has just been started, as child 0.
    fn new() -> World {
        World::with(SETTINGS)
    }

    fn with(settings: Settings) -> World {
        let now = Instant::now();
        let mut world = World { supervisor: Supervisor::new(settings, now), now };
        world.expect(&[start(0, 0, Task::Run)]);
        world
    }

    /// The new sidecar, child 3 of binary 1, has been started to take over.
    fn taking_over() -> World {
        let mut world = World::new();
        world.upgrade();
        world.expect(&[Action::Say(Note::UpgradeBegins), start(1, 1, Task::Version)]);
        world.said(1, End::Code(0), "shmesh 0.2.0\n");
        world.expect(&[start(2, 1, Task::Check)]);
        world.ended(2, 0);
        world.expect(&[start(3, 1, Task::TakeOver)]);
        world
    }

    /// It has taken over.
    fn upgraded() -> World {
        let mut world = World::taking_over();
        world.ended(0, 0);
        world.expect(&[Action::Say(Note::Upgraded)]);
        world
    }

    fn upgrade(&mut self) {
        self.supervisor.handle(Event::Upgrade, self.now);
    }

    fn signal(&mut self, signal: Signal) {
        self.supervisor.handle(Event::Signal(signal), self.now);
    }

    fn said(&mut self, child: u32, end: End, said: &str) {
        self.supervisor.handle(Event::Ended { child: Child(child), end, said: said.to_owned() }, self.now);
    }

    fn ended(&mut self, child: u32, code: i32) {
        self.said(child, End::Code(code), "");
    }

    fn killed(&mut self, child: u32) {
        self.said(child, End::Signal(9), "");
    }

    /// Time passes, and the supervisor is woken when it asked for it.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.supervisor.deadline().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.supervisor.expire(self.now);
            assert!(self.supervisor.deadline() != Some(next), "it asks again for what it was woken for");
        }
        self.now = until;
    }

    #[track_caller]
    fn expect(&mut self, actions: &[Action]) {
        assert_eq!(self.supervisor.actions(), actions);
    }

    /// The pause of which the last note speaks.
    #[track_caller]
    fn pause(&mut self) -> Duration {
        match self.supervisor.actions().as_slice() {
            [Action::Say(Note::Ended { pause, .. })] => *pause,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_that_ends_starts_again_after_pauses_that_double() {
    let mut world = World::new();
    let mut pauses = Vec::new();
    for child in 0..9 {
        // However it ends.
        match child % 3 {
            0 => world.killed(child),
            1 => world.ended(child, 1),
            _ => world.ended(child, 0),
        }
        let pause = world.pause();
        world.pass(pause - Duration::from_nanos(1));
        world.expect(&[]);
        world.pass(Duration::from_nanos(1));
        world.expect(&[start(child + 1, 0, Task::Run)]);
        pauses.push(pause.as_millis());
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    // One that lived nearly long enough.
    world.pass(seconds(59.9));
    world.killed(9);
    assert_eq!(world.pause(), seconds(10.0));
    world.pass(seconds(10.0));
    world.expect(&[start(10, 0, Task::Run)]);
    world.pass(seconds(60.0));
    world.killed(10);
    assert_eq!(world.pause(), seconds(0.1));
}

#[test]
fn one_that_cannot_be_started_is_tried_again() {
    let mut world = World::new();
    world.said(0, End::NotStarted("too many processes".to_owned()), "");
    assert_eq!(world.pause(), seconds(0.1));
    world.pass(seconds(0.1));
    world.expect(&[start(1, 0, Task::Run)]);
}

#[test]
fn one_that_does_not_know_its_arguments_is_not_started_again() {
    let mut world = World::new();
    world.ended(0, 2);
    world.expect(&[Action::Say(Note::WrongUsage), Action::Exit(2)]);
    assert_eq!(world.supervisor.deadline(), None);
}

#[test]
fn its_exit_code_is_passed_on() {
    for (end, code) in [(End::Code(0), 0), (End::Code(1), 1), (End::Code(2), 2), (End::Signal(15), 143)] {
        for told in [Signal::Terminate, Signal::Interrupt] {
            let mut world = World::new();
            world.signal(told);
            world.expect(&[Action::Say(Note::Stopping), signal(0, told)]);
            world.pass(seconds(39.9));
            world.expect(&[]);
            world.said(0, end.clone(), "");
            world.expect(&[Action::Exit(code)]);
            assert_eq!(world.supervisor.deadline(), None);
        }
    }
}

#[test]
fn one_that_does_not_end_is_killed() {
    let mut world = World::new();
    world.signal(Signal::Terminate);
    world.expect(&[Action::Say(Note::Stopping), signal(0, Signal::Terminate)]);
    world.pass(seconds(40.0));
    world.expect(&[Action::Say(Note::StopTimedOut), signal(0, Signal::Kill)]);
    world.pass(seconds(1000.0));
    world.expect(&[]);
    world.killed(0);
    world.expect(&[Action::Exit(137)]);
}

#[test]
fn told_twice_it_may_not_take_long() {
    let mut world = World::new();
    world.signal(Signal::Terminate);
    world.pass(seconds(10.0));
    world.expect(&[Action::Say(Note::Stopping), signal(0, Signal::Terminate)]);
    world.signal(Signal::Interrupt);
    world.expect(&[signal(0, Signal::Interrupt)]);
    world.pass(seconds(4.0));
    // A third time does not give it longer.
    world.signal(Signal::Terminate);
    world.expect(&[signal(0, Signal::Terminate)]);
    world.pass(seconds(1.0));
    world.expect(&[Action::Say(Note::StopTimedOut), signal(0, Signal::Kill)]);
    // And a fourth one brings no second kill.
    world.signal(Signal::Terminate);
    world.pass(seconds(60.0));
    world.expect(&[signal(0, Signal::Terminate)]);
}

#[test]
fn told_again_late_it_gets_no_more_time() {
    let mut world = World::new();
    world.signal(Signal::Terminate);
    world.pass(seconds(38.0));
    world.signal(Signal::Terminate);
    world.supervisor.actions();
    world.pass(seconds(2.0));
    world.expect(&[Action::Say(Note::StopTimedOut), signal(0, Signal::Kill)]);
}

#[test]
fn between_two_starts_it_ends_at_once() {
    let mut world = World::new();
    world.ended(0, 1);
    world.pause();
    world.signal(Signal::Terminate);
    world.expect(&[Action::Say(Note::Stopping), Action::Exit(0)]);
    world.pass(seconds(39.0));
    world.expect(&[]);
}

#[test]
fn hangup_is_passed_on() {
    let mut world = World::new();
    world.signal(Signal::Hangup);
    world.expect(&[signal(0, Signal::Hangup)]);
    world.killed(0);
    world.pause();
    world.signal(Signal::Hangup);
    world.expect(&[]);
    // Whoever will be the sidecar in the end has to know.
    let mut world = World::taking_over();
    world.signal(Signal::Hangup);
    world.expect(&[signal(0, Signal::Hangup), signal(3, Signal::Hangup)]);
}

#[test]
fn an_upgrade_keeps_the_binary_before_it_for_a_while() {
    let mut world = World::upgraded();
    world.pass(seconds(59.9));
    world.expect(&[]);
    world.pass(seconds(0.1));
    world.expect(&[Action::Say(Note::Steady), forget(0)]);
    assert_eq!(world.supervisor.deadline(), None);
    // Then it is started again like any other.
    world.killed(3);
    assert_eq!(world.pause(), seconds(0.1));
    world.pass(seconds(0.1));
    world.expect(&[start(4, 1, Task::Run)]);
}

#[test]
fn without_a_configuration_there_is_nothing_to_check() {
    let mut world = World::with(Settings { has_config: false, ..SETTINGS });
    world.upgrade();
    world.said(1, End::Code(0), "shmesh 0.2.0\n");
    world.expect(&[Action::Say(Note::UpgradeBegins), start(1, 1, Task::Version), start(2, 1, Task::TakeOver)]);
}

#[test]
fn a_binary_that_fails_a_check_is_refused() {
    let not_started = End::NotStarted("no such file".to_owned());
    for (end, said) in
        [(End::Code(0), "true (coreutils)"), (End::Code(1), "shmesh 1"), (End::Signal(11), ""), (not_started, "")]
    {
        let mut world = World::new();
        world.upgrade();
        world.supervisor.actions();
        world.said(1, end.clone(), &format!("{said}\nand more\n"));
        let said = said.to_owned();
        let refused = Note::UpgradeRefused { task: Task::Version, end, said, in_time: true };
        assert_eq!(refused.level(), Level::Error);
        world.expect(&[Action::Say(refused), forget(1)]);
        assert_eq!(world.supervisor.deadline(), None);
        // The next one is another binary.
        world.upgrade();
        world.expect(&[Action::Say(Note::UpgradeBegins), start(2, 2, Task::Version)]);
        world.said(2, End::Code(0), "shmesh 0.3.0");
        world.expect(&[start(3, 2, Task::Check)]);
        world.said(3, End::Code(1), "shmesh.yaml:1:1: unknown key\n");
        let said = "shmesh.yaml:1:1: unknown key".to_owned();
        let refused = Note::UpgradeRefused { task: Task::Check, end: End::Code(1), said, in_time: true };
        assert!(
            refused.to_string().ends_with("`check` the new binary ended with code 1: shmesh.yaml:1:1: unknown key")
        );
        world.expect(&[Action::Say(refused), forget(2)]);
    }
}

#[test]
fn a_check_that_does_not_end_is_killed_and_refused() {
    let mut world = World::new();
    world.upgrade();
    world.supervisor.actions();
    world.pass(seconds(10.0));
    world.expect(&[signal(1, Signal::Kill)]);
    world.pass(seconds(100.0));
    world.expect(&[]);
    world.killed(1);
    let refused =
        Note::UpgradeRefused { task: Task::Version, end: End::Signal(9), said: String::new(), in_time: false };
    assert!(refused.to_string().ends_with("`--version` the new binary gave no answer in time"));
    world.expect(&[Action::Say(refused), forget(1)]);
}

#[test]
fn one_that_ends_before_it_took_over_changes_nothing() {
    for end in [End::Code(1), End::Code(0), End::Signal(6)] {
        let mut world = World::taking_over();
        world.pass(seconds(29.9));
        world.said(3, end.clone(), "");
        world.expect(&[Action::Say(Note::TakeOverFailed { end, in_time: true }), forget(1)]);
        assert_eq!(world.supervisor.deadline(), None);
        world.killed(0);
        world.pause();
        world.pass(seconds(0.1));
        world.expect(&[start(4, 0, Task::Run)]);
    }
}

#[test]
fn one_that_does_not_take_over_in_time_is_killed() {
    let mut world = World::taking_over();
    world.pass(seconds(30.0));
    world.expect(&[ABANDON]);
    world.pass(seconds(100.0));
    world.expect(&[]);
    world.killed(3);
    let failed = Note::TakeOverFailed { end: End::Signal(9), in_time: false };
    world.expect(&[Action::Say(failed), forget(1)]);
}

/// The system takes its time to end a process: it is not killed then.
#[test]
fn one_whose_predecessor_ends_late_stays() {
    let mut world = World::taking_over();
    world.pass(seconds(30.0));
    world.expect(&[ABANDON]);
    world.pass(seconds(20.0));
    world.ended(0, 0);
    world.expect(&[Action::Say(Note::Upgraded)]);
    world.pass(seconds(60.0));
    world.expect(&[Action::Say(Note::Steady), forget(0)]);
}

/// It had taken over after all, in the moment in which it was killed.
#[test]
fn one_that_is_killed_too_late_is_taken_back() {
    let mut world = World::taking_over();
    world.pass(seconds(30.0));
    world.expect(&[ABANDON]);
    world.ended(0, 0);
    world.killed(3);
    let rolled_back = Note::RolledBack { end: End::Signal(9), lived: Duration::ZERO };
    world.expect(&[Action::Say(Note::Upgraded), Action::Say(rolled_back), forget(1)]);
    world.pass(seconds(0.1));
    world.expect(&[start(4, 0, Task::Run)]);
}

/// Both have ended, and the new one's end is told first.
#[test]
fn the_order_in_which_two_ends_are_told_does_not_matter() {
    let mut world = World::taking_over();
    world.killed(3);
    world.ended(0, 0);
    world.supervisor.actions();
    world.pass(seconds(0.1));
    world.expect(&[start(4, 0, Task::Run)]);
}

#[test]
fn one_that_dies_soon_after_it_took_over_is_taken_back() {
    let mut world = World::upgraded();
    world.pass(seconds(59.9));
    world.ended(3, 101);
    let rolled_back = Note::RolledBack { end: End::Code(101), lived: seconds(59.9) };
    assert_eq!(rolled_back.level(), Level::Error);
    world.expect(&[Action::Say(rolled_back), forget(1)]);
    world.pass(seconds(0.1));
    world.expect(&[start(4, 0, Task::Run)]);
    // From then on it is the only one, whatever lies at the path.
    for child in 4..8 {
        world.killed(child);
        let pause = world.pause();
        world.pass(pause);
        world.expect(&[start(child + 1, 0, Task::Run)]);
    }
}

/// It takes back even one that does not know the arguments.
#[test]
fn wrong_usage_of_a_new_binary_is_taken_back() {
    let mut world = World::upgraded();
    world.ended(3, 2);
    let rolled_back = Note::RolledBack { end: End::Code(2), lived: Duration::ZERO };
    world.expect(&[Action::Say(rolled_back), forget(1)]);
}

#[test]
fn the_new_one_goes_on_when_the_old_one_dies() {
    let mut world = World::taking_over();
    world.killed(0);
    world.expect(&[Action::Say(Note::DiedInUpgrade(End::Signal(9)))]);
    // It has as long as it needs now, and is tried out.
    world.pass(seconds(40.0));
    world.expect(&[]);
    world.ended(3, 1);
    let rolled_back = Note::RolledBack { end: End::Code(1), lived: seconds(40.0) };
    world.expect(&[Action::Say(rolled_back), forget(1)]);
    world.pass(seconds(0.1));
    world.expect(&[start(4, 0, Task::Run)]);
}

impl World {
    /// The old sidecar died before it had given everything; in whichever order the two ends are told, the new one, child 4 now, starts anew.
    fn orphaned(new_first: bool) -> World {
        let died = Action::Say(Note::DiedInUpgrade(End::Signal(9)));
        let anew = [Action::Say(Note::Orphaned), start(4, 1, Task::Run)];
        let mut world = World::taking_over();
        if new_first {
            world.ended(3, 75);
            world.pass(seconds(29.9));
            world.expect(&[]);
            world.killed(0);
            world.expect(&[&[died][..], &anew].concat());
        } else {
            world.killed(0);
            world.expect(&[died]);
            world.pass(seconds(50.0));
            world.ended(3, 75);
            world.expect(&anew);
        }
        world
    }
}

#[test]
fn one_whose_predecessor_dies_before_it_gave_everything_starts_anew() {
    assert_eq!(Note::Orphaned.level(), Level::Warn);
    for new_first in [false, true] {
        // It is tried out like any other, from then on.
        let mut world = World::orphaned(new_first);
        world.pass(seconds(59.9));
        world.expect(&[]);
        world.pass(seconds(0.1));
        world.expect(&[Action::Say(Note::Steady), forget(0)]);
        // And not excused again.
        let mut world = World::orphaned(new_first);
        world.pass(seconds(59.9));
        world.ended(4, 75);
        let rolled_back = Note::RolledBack { end: End::Code(75), lived: seconds(59.9) };
        world.expect(&[Action::Say(rolled_back), forget(1)]);
    }
}

/// What it says of the one before it is not true.
#[test]
fn one_whose_predecessor_lives_all_the_same_is_given_up() {
    let mut world = World::taking_over();
    world.pass(seconds(10.0));
    world.ended(3, 75);
    world.upgrade();
    world.expect(&[Action::Say(Note::UpgradeInUpgrade)]);
    world.pass(seconds(20.0));
    world.expect(&[Action::Say(Note::TakeOverFailed { end: End::Code(75), in_time: true }), forget(1)]);
    assert_eq!(world.supervisor.deadline(), None);
    world.killed(0);
    world.pause();
    world.pass(seconds(0.1));
    world.expect(&[start(4, 0, Task::Run)]);
    // Nor does it keep the supervisor from its end.
    let mut world = World::taking_over();
    world.ended(3, 75);
    world.signal(Signal::Terminate);
    world.expect(&[Action::Say(Note::Stopping), signal(0, Signal::Terminate)]);
    world.ended(0, 0);
    world.expect(&[Action::Exit(0)]);
}

/// The code excuses nobody who was not to take over from one that died.
#[test]
fn one_that_had_taken_over_is_taken_back_whatever_it_says() {
    let mut world = World::upgraded();
    world.ended(3, 75);
    let rolled_back = Note::RolledBack { end: End::Code(75), lived: Duration::ZERO };
    world.expect(&[Action::Say(rolled_back), forget(1)]);
    let mut world = World::new();
    world.ended(0, 75);
    assert_eq!(world.pause(), seconds(0.1));
}

#[test]
fn a_second_upgrade_during_one_is_refused() {
    let mut world = World::new();
    world.upgrade();
    world.supervisor.actions();
    world.upgrade();
    world.expect(&[Action::Say(Note::UpgradeInUpgrade)]);
    let mut world = World::taking_over();
    world.upgrade();
    world.expect(&[Action::Say(Note::UpgradeInUpgrade)]);
    assert_eq!(Note::UpgradeInUpgrade.level(), Level::Warn);
}

#[test]
fn an_upgrade_soon_after_one_goes_back_by_one() {
    let mut world = World::upgraded();
    world.pass(seconds(10.0));
    world.upgrade();
    world.said(4, End::Code(0), "shmesh 0.3.0");
    world.ended(5, 0);
    world.ended(3, 0);
    world.expect(&[
        Action::Say(Note::UpgradeBegins),
        start(4, 2, Task::Version),
        start(5, 2, Task::Check),
        start(6, 2, Task::TakeOver),
        Action::Say(Note::Upgraded),
        forget(0),
    ]);
    world.pass(seconds(55.0));
    world.killed(6);
    let rolled_back = Note::RolledBack { end: End::Signal(9), lived: seconds(55.0) };
    world.expect(&[Action::Say(rolled_back), forget(2)]);
    world.pass(seconds(0.1));
    world.expect(&[start(7, 1, Task::Run)]);
}

/// The old one dies during the checks: an upgrade is what helps.
#[test]
fn an_upgrade_needs_no_sidecar() {
    let mut world = World::new();
    for child in 0..9 {
        world.killed(child);
        let pause = world.pause();
        world.pass(pause);
        world.expect(&[start(child + 1, 0, Task::Run)]);
    }
    world.killed(9);
    assert_eq!(world.pause(), seconds(10.0));
    world.upgrade();
    world.expect(&[Action::Say(Note::UpgradeBegins), start(10, 1, Task::Version)]);
    world.said(10, End::Code(0), "shmesh 0.2.0");
    world.expect(&[start(11, 1, Task::Check)]);
    world.ended(11, 0);
    // At once, and not to take over.
    world.expect(&[Action::Say(Note::Upgraded), start(12, 1, Task::Run)]);
    world.pass(seconds(30.0));
    world.expect(&[]);
    world.killed(12);
    let rolled_back = Note::RolledBack { end: End::Signal(9), lived: seconds(30.0) };
    world.expect(&[Action::Say(rolled_back), forget(1)]);
    // The pause had grown to 10 s, and not by ends of this one.
    world.pass(seconds(0.1));
    world.expect(&[start(13, 0, Task::Run)]);
}

#[test]
fn a_sidecar_that_comes_back_during_the_checks_is_taken_over() {
    let mut world = World::new();
    world.killed(0);
    world.pause();
    world.upgrade();
    world.pass(seconds(0.1));
    world.expect(&[Action::Say(Note::UpgradeBegins), start(1, 1, Task::Version), start(2, 0, Task::Run)]);
    world.said(1, End::Code(0), "shmesh 0.2.0");
    world.ended(3, 0);
    world.expect(&[start(3, 1, Task::Check), start(4, 1, Task::TakeOver)]);
}

/// Which may be what mends it.
#[test]
fn wrong_usage_during_checks_waits_for_these() {
    let mut world = World::new();
    world.upgrade();
    world.supervisor.actions();
    world.ended(0, 2);
    world.pause();
    world.pass(seconds(0.1));
    world.expect(&[start(2, 0, Task::Run)]);
}

#[test]
fn an_end_in_the_middle_of_a_check_ends_that_too() {
    let mut world = World::new();
    world.upgrade();
    world.supervisor.actions();
    world.signal(Signal::Terminate);
    world.expect(&[Action::Say(Note::Stopping), signal(1, Signal::Kill), signal(0, Signal::Terminate)]);
    world.upgrade();
    world.expect(&[Action::Say(Note::UpgradeWhileEnding)]);
    world.ended(0, 0);
    world.expect(&[]);
    // What became of the check is nobody's exit code.
    world.killed(1);
    world.expect(&[Action::Exit(0)]);
    assert_eq!(world.supervisor.deadline(), None);
}

#[test]
fn an_end_in_the_middle_of_a_take_over_ends_both() {
    for first in [0, 3] {
        let mut world = World::taking_over();
        world.signal(Signal::Terminate);
        let told = [signal(0, Signal::Terminate), signal(3, Signal::Terminate)];
        world.expect(&[&[Action::Say(Note::Stopping)][..], &told].concat());
        world.killed(first);
        world.expect(&[]);
        world.ended(3 - first, 0);
        world.expect(&[Action::Exit(0)]);
    }
    let mut world = World::taking_over();
    world.signal(Signal::Terminate);
    world.supervisor.actions();
    world.pass(seconds(40.0));
    let killed = [signal(0, Signal::Kill), signal(3, Signal::Kill)];
    world.expect(&[&[Action::Say(Note::StopTimedOut)][..], &killed].concat());
}

#[test]
fn notes_are_sentences() {
    let ended = Note::Ended { end: End::Code(1), lived: seconds(1.25), pause: seconds(0.2) };
    assert_eq!(ended.to_string(), "the sidecar ended with code 1 after 1.2 s; it starts again in 200ms");
    let end = End::NotStarted("no such file".to_owned());
    let refused = Note::UpgradeRefused { task: Task::Version, end, said: String::new(), in_time: true };
    assert!(refused.to_string().ends_with("the new binary could not be started (no such file)"), "{refused}");
    let said = "hello".to_owned();
    let refused = Note::UpgradeRefused { task: Task::Version, end: End::Code(0), said, in_time: true };
    assert!(refused.to_string().ends_with("the new binary did not say that it is shmesh: hello"), "{refused}");
}
