//! Host names: looked up by a thread of their own, which keeps what name servers say for as long as they allow.
//!
//! Workers ask, and keep the answers too (`core/engine/src/host.rs`). However many of them ask for a name, it is looked up once. How
//! that is done (files, name servers, the search list) is in `lookup`.

#![forbid(unsafe_code)]

mod lookup;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use shmesh_engine::{NAMES_MAX, Outcome, Question, RETRY_AFTER, Resolver};
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use lookup::Client;

/// The least that an answer is used, whatever its TTL: a TTL of 0 does not mean a look-up a call.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// The longest that an answer is used, so that a TTL of weeks, once it turns out to be a mistake, heals.
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// The longest that "there is no such host" is believed. The SOA record says how long (RFC 2308 §5), but people wait for this one.
pub const TTL_NEGATIVE_MAX: Duration = Duration::from_secs(30);

/// The longest that a look-up takes, all servers, attempts and names of the search list together.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(5);

/// After so long whoever asked is told to make do with what it knows.
pub const LATE_AFTER: Duration = Duration::from_secs(1);

/// Names of requests that are looked up at once, and as many of the configuration; each has a few sockets for it. Others wait.
pub const NAMES_AT_ONCE_MAX: usize = 64;

/// A question and who is told.
struct Asked {
    host: Box<str>,
    servers: Vec<SocketAddr>,
    tell: Tell,
}

/// Tells somebody what is known.
type Tell = Box<dyn Fn(Outcome) + Send>;

/// Starts the thread; it ends when the last handle is dropped.
pub fn start() -> std::io::Result<Resolver> {
    // Apart, so that names which requests name do not stand in front of those which are configured.
    let (configured, of_configuration) = unbounded_channel();
    let (named, of_requests) = unbounded_channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let both = async move { tokio::join!(serve(of_configuration), serve(of_requests)) };
    thread::Builder::new().name("resolver".into()).spawn(move || runtime.block_on(both))?;
    Ok(Resolver::new(move |mut question: Question| {
        let sender = if question.of_request { &named } else { &configured };
        let (host, servers) = (question.host.clone(), std::mem::take(&mut question.servers));
        let tell: Tell = Box::new(move |outcome| question.answer(outcome));
        // The thread lives as long as this handle.
        let _ = sender.send(Asked { host, servers, tell });
    }))
}

/// What the thread knows of a name.
enum Name {
    /// It is being looked up, and these wait.
    Asked(Vec<Tell>),
    /// An outcome and until when it holds.
    Known(Outcome, Instant),
}

/// How a look-up goes.
struct Progress {
    host: Box<str>,
    outcome: Outcome,
    /// `Client::generation` that it was begun with.
    generation: u64,
}

async fn serve(mut questions: UnboundedReceiver<Asked>) {
    let mut names: HashMap<Box<str>, Name> = HashMap::new();
    let mut client = Client::default();
    let permits = Arc::new(Semaphore::new(NAMES_AT_ONCE_MAX));
    let (progress, mut progressed) = unbounded_channel::<Progress>();
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(question) = question else { return };
                let Asked { host, servers, tell } = question;
                if client.refresh(&servers) {
                    names.retain(|_, name| matches!(name, Name::Asked(_)));
                }
                if let Some(tell) = answer_or_wait(&mut names, &host, tell, Instant::now()) {
                    let plan = client.plan(&host);
                    names.insert(host.clone(), Name::Asked(vec![tell]));
                    tokio::spawn(look_up(host, plan, permits.clone(), client.generation(), progress.clone()));
                }
            }
            Some(step) = progressed.recv() => advance(&mut names, step, client.generation(), Instant::now()),
        }
    }
}

/// Gives `tell` back if the name has to be looked up.
fn answer_or_wait(names: &mut HashMap<Box<str>, Name>, host: &str, tell: Tell, now: Instant) -> Option<Tell> {
    match names.get_mut(host) {
        Some(Name::Asked(waiting)) => waiting.push(tell),
        Some(Name::Known(outcome, until)) if *until > now => tell(left_of(outcome, *until - now)),
        _ => return Some(tell),
    }
    None
}

/// Looks a name up, and says so when that takes long.
async fn look_up(
    host: Box<str>,
    plan: lookup::Plan,
    permits: Arc<Semaphore>,
    generation: u64,
    progress: UnboundedSender<Progress>,
) {
    let say = |outcome| {
        // The receiver outlives its runtime's tasks.
        let _ = progress.send(Progress { host: host.clone(), outcome, generation });
    };
    let looked_up = async {
        // Nobody closes the semaphore.
        let _permit = permits.acquire().await.ok();
        tokio::time::timeout(LOOKUP_TIME_MAX, plan.run()).await.unwrap_or(Outcome::Failed)
    };
    tokio::pin!(looked_up);
    let outcome = match tokio::time::timeout(LATE_AFTER, &mut looked_up).await {
        Ok(outcome) => outcome,
        Err(_) => {
            say(Outcome::Late);
            looked_up.await
        }
    };
    if outcome == Outcome::Failed {
        tracing::warn!(host = &*host, "no name server answers for a host name");
    }
    say(outcome);
}

/// Tells whoever waits for a name, and remembers what holds for a while.
fn advance(names: &mut HashMap<Box<str>, Name>, step: Progress, generation: u64, now: Instant) {
    let Progress { host, outcome, .. } = step;
    if outcome == Outcome::Late {
        if let Some(Name::Asked(waiting)) = names.get(&host) {
            waiting.iter().for_each(|tell| tell(Outcome::Late));
        }
        return;
    }
    if let Some(Name::Asked(waiting)) = names.remove(&host) {
        waiting.iter().for_each(|tell| tell(outcome.clone()));
    }
    let until = now
        + match &outcome {
            Outcome::Found { ttl, .. } | Outcome::Absent { ttl } => *ttl,
            Outcome::Failed | Outcome::Late => RETRY_AFTER,
        };
    if names.len() >= NAMES_MAX {
        names.retain(|_, name| !matches!(name, Name::Known(_, until) if *until <= now));
    }
    // One that was asked of other servers than are in force now holds for those who asked then.
    if names.len() < NAMES_MAX && step.generation == generation {
        names.insert(host, Name::Known(outcome, until));
    }
}

/// The outcome for somebody who is told later than the first one was.
fn left_of(outcome: &Outcome, left: Duration) -> Outcome {
    match outcome {
        Outcome::Found { addresses, .. } => Outcome::Found { addresses: addresses.clone(), ttl: left },
        Outcome::Absent { .. } => Outcome::Absent { ttl: left },
        Outcome::Failed | Outcome::Late => outcome.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Somebody who asks, and what it is told.
    fn asker() -> (Tell, Receiver<Outcome>) {
        let (sender, told) = channel();
        let tell = Box::new(move |outcome| sender.send(outcome).expect("somebody listens"));
        (tell, told)
    }

    fn told(receiver: &Receiver<Outcome>) -> Vec<Outcome> {
        receiver.try_iter().collect()
    }

    fn found(seconds: u64) -> Outcome {
        Outcome::Found { addresses: ["10.0.0.1".parse().unwrap()].into(), ttl: Duration::from_secs(seconds) }
    }

    fn progress(outcome: Outcome) -> Progress {
        Progress { host: "cart".into(), outcome, generation: 1 }
    }

    #[test]
    fn many_that_wait_are_one_question() {
        let (mut names, now) = (HashMap::new(), Instant::now());
        let ((first, one), (second, two)) = (asker(), asker());
        let first = answer_or_wait(&mut names, "cart", first, now).expect("nobody knows it");
        names.insert("cart".into(), Name::Asked(vec![first]));
        assert!(answer_or_wait(&mut names, "cart", second, now).is_none());
        advance(&mut names, progress(Outcome::Late), 1, now);
        advance(&mut names, progress(found(30)), 1, now);
        for receiver in [one, two] {
            assert_eq!(told(&receiver), [Outcome::Late, found(30)]);
        }
    }

    #[test]
    fn who_asks_later_is_told_what_is_left_of_the_time() {
        let (mut names, mut now) = (HashMap::new(), Instant::now());
        let ask = |names: &mut HashMap<Box<str>, Name>, now| {
            let (tell, told_to) = asker();
            answer_or_wait(names, "cart", tell, now).is_none().then(|| told(&told_to))
        };
        advance(&mut names, progress(found(30)), 1, now);
        now += Duration::from_secs(29);
        assert_eq!(ask(&mut names, now), Some(vec![found(1)]));
        now += Duration::from_secs(1);
        assert_eq!(ask(&mut names, now), None, "its time is over");
        // A failure counts for a moment only.
        advance(&mut names, progress(Outcome::Failed), 1, now);
        assert_eq!(ask(&mut names, now), Some(vec![Outcome::Failed]));
        now += RETRY_AFTER;
        assert_eq!(ask(&mut names, now), None);
    }

    #[test]
    fn what_other_servers_said_is_not_kept() {
        let (mut names, now) = (HashMap::new(), Instant::now());
        advance(&mut names, progress(found(30)), 2, now);
        assert!(answer_or_wait(&mut names, "cart", asker().0, now).is_some());
    }

    #[test]
    fn there_is_a_bound_to_what_is_remembered() {
        let (mut names, mut now) = (HashMap::new(), Instant::now());
        for number in 0..2 * NAMES_MAX {
            let host = format!("host{number}").into();
            advance(&mut names, Progress { host, outcome: found(30), generation: 1 }, 1, now);
        }
        assert_eq!(names.len(), NAMES_MAX);
        now += Duration::from_secs(30);
        advance(&mut names, progress(found(30)), 1, now);
        assert_eq!(names.len(), 1, "what is old makes room");
    }
}
