//! What else runs on the machine is not what is measured: the suite, and all that it starts, come before that.

use std::fs;

use thread_priority::ThreadPriority;

/// How Linux weighs all processes of a session against those of others, where it does (sched(7), autogroups).
const GROUP: &str = "/proc/self/autogroup";

/// The nice value of what comes first.
const FIRST: &str = "-20";

/// Until it is dropped.
pub struct Precedence {
    /// The session's nice value before, which is that of a shell, too.
    group: Option<String>,
}

impl Precedence {
    /// None where the system does not allow it. To be called before there are other threads: these inherit it.
    pub fn take() -> Option<Precedence> {
        thread_priority::set_current_thread_priority(ThreadPriority::Max).ok()?;
        let group = fs::read_to_string(GROUP).ok();
        let group = group.and_then(|group| group.split_whitespace().last().map(str::to_owned));
        if group.is_some() {
            fs::write(GROUP, FIRST).ok()?;
        }
        Some(Precedence { group })
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if let Some(nice) = &self.group {
            let _ = fs::write(GROUP, nice);
        }
    }
}
