//! What the kernel says of the CPU time of this process, of its threads, and of the apps, and of the memory of this process. Where it says
//! nothing, nothing is known.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Longest file under /proc that is looked at, in bytes; so that nothing is parsed that is none of these.
const STAT_BYTES_MAX: usize = 4096;

/// How a thread came to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// Time on a CPU.
    pub cpu: Duration,
    /// Time in which it could have run, and waited for a CPU.
    pub delay: Duration,
    /// How often it got one.
    pub times: u64,
    /// It has one, or waits for one.
    pub ready: bool,
}

impl Run {
    /// How long it waited each time, on the average, since an earlier word of it, `passed` ago. None: it slept all the time, or that
    /// is not known.
    pub fn lag_since(self, before: Run, passed: Duration) -> Option<Duration> {
        match u32::try_from(self.times.checked_sub(before.times)?).ok()? {
            // The kernel counts a wait when it is over. This one is not, and began earlier; one with a CPU all the time has used it.
            0 => (self.ready && before.ready && self.cpu == before.cpu).then_some(passed),
            times => Some(self.delay.checked_sub(before.delay)? / times),
        }
    }
}

/// CPU time of this process, and how much of it is the calling thread's.
pub(crate) fn own_cpu() -> (Duration, Duration) {
    let of = |who| getrusage(who).map_or(Duration::ZERO, |usage| time(usage.user_time()) + time(usage.system_time()));
    (of(UsageWho::RUSAGE_SELF), of(UsageWho::RUSAGE_THREAD))
}

/// Bytes of memory that this process has by itself or shares with apps; files that it has mapped are not among them.
pub(crate) fn own_memory() -> Option<u64> {
    parse_status(&fs::read_to_string("/proc/self/status").ok()?)
}

/// RssAnon and RssShmem of proc_pid_status(5).
fn parse_status(text: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    kib("RssAnon")?.checked_add(kib("RssShmem")?)?.checked_mul(1024)
}

fn time(value: TimeVal) -> Duration {
    let micros = value.tv_sec().saturating_mul(1_000_000).saturating_add(value.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// How a thread of this process came to run. None: this kernel does not count it, or the thread has ended.
pub(crate) fn thread(id: Pid) -> Option<Run> {
    let file = |name| fs::read_to_string(format!("/proc/self/task/{id}/{name}")).ok();
    let ready = file("stat").is_some_and(|text| is_ready(&text));
    Some(Run { ready, ..parse_schedstat(&file("schedstat")?)? })
}

/// Field 3 of proc_pid_stat(5).
fn is_ready(stat: &str) -> bool {
    fields(stat).is_some_and(|fields| fields.trim_start().starts_with('R'))
}

/// Nanoseconds on a CPU, nanoseconds of waiting for one, and how often (Linux, Documentation/scheduler/sched-stats).
fn parse_schedstat(text: &str) -> Option<Run> {
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || words.next()?.ok();
    let (cpu, delay, times) = (next()?, next()?, next()?);
    Some(Run { cpu: Duration::from_nanos(cpu), delay: Duration::from_nanos(delay), times, ready: false })
}

/// A process, and the CPU time that it has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// When it started; tells it from a later one with the same pid.
    pub started: u64,
    pub cpu: Duration,
}

/// None: it has ended, or cannot be seen from here.
pub(crate) fn process(pid: i32) -> Option<Process> {
    // A process of another PID namespace has the pid 0.
    let text = (pid > 0).then(|| fs::read_to_string(format!("/proc/{pid}/stat")).ok())??;
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    parse_stat(&text, u64::try_from(ticks_a_second).ok()?)
}

/// Those of proc_pid_stat(5) from the third one on. The second one, in brackets, is a name that may have anything in it.
fn fields(stat: &str) -> Option<&str> {
    Some(stat.get(..stat.len().min(STAT_BYTES_MAX))?.rsplit_once(')')?.1)
}

/// Fields 14, 15 and 22.
fn parse_stat(text: &str, ticks_a_second: u64) -> Option<Process> {
    let fields = fields(text)?;
    let number = |field: usize| fields.split_whitespace().nth(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    let cpu = Duration::from_micros(ticks.checked_mul(1_000_000)?.checked_div(ticks_a_second)?);
    Some(Process { started: number(22)?, cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "12 (a ) b) S 1 12 12 0 -1 4194560 70 0 0 0 150 50 0 0 20 0 1 0 987 1000 10 18446744073709551615 1 1 0";

    const PASSED: Duration = Duration::from_millis(100);

    #[test]
    fn a_process_is_known_by_its_start_and_has_used_so_much() {
        let process = Process { started: 987, cpu: Duration::from_secs(2) };
        assert_eq!(parse_stat(STAT, 100), Some(process));
        for wrong in ["", "12 (a", "12 (a) S 1", &STAT[..60], &STAT.replace("150", "x")] {
            assert_eq!(parse_stat(wrong, 100), None, "{wrong}");
        }
        assert_eq!(parse_stat(STAT, 0), None);
        assert_eq!(process_of_nobody(), None);
    }

    #[test]
    fn memory_is_what_is_not_files() {
        let text = "Name:\tRssAnon: 9 kB\nVmRSS:\t   9000 kB\nRssAnon:\t    3000 kB\nRssFile:\t 4000 kB\nRssShmem:\t 2000 kB\n";
        assert_eq!(parse_status(text), Some(5000 * 1024));
        assert_eq!(parse_status(&text.replace("RssShmem", "Other")), None);
        assert!(own_memory().is_some_and(|bytes| bytes > 100_000));
    }

    fn process_of_nobody() -> Option<Process> {
        process(0).or_else(|| process(-1))
    }

    #[test]
    fn this_process_and_its_threads_are_seen() {
        let before = own_cpu();
        while own_cpu().1 < before.1 + Duration::from_millis(20) {}
        let (all, mine) = own_cpu();
        assert!(all >= mine, "{all:?}, {mine:?}");
        assert!(process(i32::try_from(std::process::id()).expect("a pid")).is_some());
        // Where the kernel counts it at all.
        if let Some(run) = thread(nix::unistd::gettid()) {
            assert!(run.cpu >= Duration::from_millis(10) && run.times > 0 && run.ready, "{run:?}");
        }
    }

    #[test]
    fn the_lag_is_what_each_time_took() {
        let run = |delay, times| Run { delay: Duration::from_millis(delay), times, ..Run::default() };
        assert_eq!(parse_schedstat("7 30000000 4\n"), Some(Run { cpu: Duration::from_nanos(7), ..run(30, 4) }));
        assert_eq!(run(30, 4).lag_since(run(10, 2), PASSED), Some(Duration::from_millis(10)));
        assert_eq!(run(30, 4).lag_since(run(30, 4), PASSED), None, "it slept");
        assert_eq!(run(30, 4).lag_since(run(10, 5), PASSED), None, "another thread");
        assert_eq!(parse_schedstat("7 30"), None);
    }

    #[test]
    fn who_gets_no_cpu_at_all_waits_all_the_time() {
        let run = |times, cpu, ready| Run { times, ready, cpu: Duration::from_millis(cpu), ..Run::default() };
        let since = |now: Run, before: Run| now.lag_since(before, PASSED);
        assert_eq!(since(run(4, 7, true), run(4, 7, true)), Some(PASSED));
        assert_eq!(since(run(4, 7, true), run(4, 7, false)), None, "nobody knows since when");
        assert_eq!(since(run(4, 7, false), run(4, 7, true)), None);
        assert_eq!(since(run(4, 9, true), run(4, 7, true)), None, "it has a CPU");
        assert!(is_ready("12 (a) S) R 1 12") && !is_ready(STAT) && !is_ready("12 (R"));
    }
}
