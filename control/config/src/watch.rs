//! Says when the content of the configuration file changed.
//!
//! What is watched is the directory, because files are seldom written in place: editors rename a new file over the
//! old one, and Kubernetes swaps a symbolic link beside it (`..data`). Where the file is itself a link to another
//! directory, that one is watched too.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;

/// How long the directory must be quiet before the file is read: a writer is seldom done after its first write.
const QUIET: Duration = Duration::from_millis(100);
/// How long a directory that is never quiet (a log in it, say) can put that off.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches one file until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: mpsc::Sender<Signal>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Why a file cannot be watched. The configuration can still be reloaded by SIGHUP.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The kernel refuses, for example because the user has too many inotify instances.
    #[error("{directory} cannot be watched: {reason}")]
    Directory {
        /// Where the file is.
        directory: PathBuf,
        /// What the kernel says.
        reason: String,
    },
    /// There is no thread to wait in.
    #[error("no thread to watch the configuration in: {0}")]
    Thread(std::io::Error),
}

impl Watcher {
    /// Calls `on_change` from a thread of its own whenever the file's bytes differ from those that it had at the last
    /// call (or at the start): not when it is only touched, and not while it is missing.
    ///
    /// Start this before the file is loaded for the first time, so that no change falls between the two.
    pub fn start(path: &Path, on_change: impl FnMut() + Send + 'static) -> Result<Watcher, WatchError> {
        let (signals, received) = mpsc::channel();
        let events = signals.clone();
        let inotify = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the file is an event, too, and would cause itself for ever.
            let of_reading = matches!(&event, Ok(event) if event.kind.is_access());
            if !of_reading {
                // Nobody listens any more when the watcher is being dropped.
                let _ = events.send(Signal::Changed);
            }
        });
        let mut watch = Watch {
            inotify: inotify.map_err(|error| refused(&directory_of(path), &error))?,
            watched: BTreeSet::new(),
            path: path.to_owned(),
            seen: None,
        };
        watch.follow_links()?;
        watch.seen = watch.content();
        let thread = thread::Builder::new()
            .name("config-watch".into())
            .spawn(move || watch.run(&received, on_change))
            .map_err(WatchError::Thread)?;
        Ok(Watcher { stop: signals, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The thread may have ended by itself only by a panic of the callback; then there is nobody to tell.
        let _ = self.stop.send(Signal::Stop);
        let from_callback = self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id());
        if let Some(thread) = self.thread.take().filter(|_| !from_callback) {
            let _ = thread.join();
        }
    }
}

enum Signal {
    Changed,
    Stop,
}

struct Watch {
    inotify: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    path: PathBuf,
    /// Hash of the bytes at the last call; `None` while there was never a file.
    seen: Option<u64>,
}

impl Watch {
    fn run(mut self, signals: &Receiver<Signal>, mut on_change: impl FnMut()) {
        while let Ok(Signal::Changed) = signals.recv() {
            if !wait_for_quiet(signals) {
                return;
            }
            // A refusal here leaves the directories that are watched already.
            let _ = self.follow_links();
            let content = self.content();
            if content.is_some() && content != self.seen {
                self.seen = content;
                on_change();
            }
        }
    }

    /// Watches the directory of the path, and the one that it leads to. Watches of directories that are gone end by
    /// themselves, so they are made anew each time.
    fn follow_links(&mut self) -> Result<(), WatchError> {
        let mut wanted = BTreeSet::from([directory_of(&self.path)]);
        if let Ok(target) = fs::canonicalize(&self.path) {
            wanted.insert(directory_of(&target));
        }
        for old in self.watched.difference(&wanted) {
            // It may be gone.
            let _ = self.inotify.unwatch(old);
        }
        self.watched = wanted;
        let mut refusal = None;
        for directory in &self.watched {
            if let Err(error) = self.inotify.watch(directory, RecursiveMode::NonRecursive) {
                refusal.get_or_insert(refused(directory, &error));
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn content(&self) -> Option<u64> {
        let bytes = fs::read(&self.path).ok()?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Some(hasher.finish())
    }
}

/// False when the watcher is to stop.
fn wait_for_quiet(signals: &Receiver<Signal>) -> bool {
    let latest = Instant::now() + PATIENCE;
    loop {
        let left = latest.saturating_duration_since(Instant::now());
        match signals.recv_timeout(QUIET.min(left)) {
            Ok(Signal::Changed) if left.is_zero() => return true,
            Ok(Signal::Changed) => {}
            Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn refused(directory: &Path, error: &notify::Error) -> WatchError {
    WatchError::Directory { directory: directory.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Longer than a change can be put off.
    const SOON: Duration = Duration::from_secs(10);
    /// Long enough for a call that should not come.
    const NEVER: Duration = Duration::from_millis(600);

    fn watch(path: &Path) -> (Watcher, Receiver<()>) {
        let (told, changes) = mpsc::channel();
        let watcher = Watcher::start(path, move || told.send(()).unwrap()).unwrap();
        (watcher, changes)
    }

    #[test]
    fn tells_of_new_content_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shmesh.yaml");
        fs::write(&path, "a").unwrap();
        let (watcher, changes) = watch(&path);

        fs::write(&path, "b").unwrap();
        changes.recv_timeout(SOON).expect("written in place");

        let beside = directory.path().join("new");
        fs::write(&beside, "c").unwrap();
        fs::rename(&beside, &path).unwrap();
        changes.recv_timeout(SOON).expect("renamed over");

        fs::write(&path, "c").unwrap();
        fs::write(directory.path().join("other"), "x").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(changes.recv_timeout(NEVER).is_err(), "the same bytes, another file, and no file");

        fs::write(&path, "d").unwrap();
        changes.recv_timeout(SOON).expect("there again");
        drop(watcher);
        assert!(changes.recv().is_err(), "the callback is gone with the watcher");
    }

    #[test]
    fn sees_a_config_map_swap_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::write(at("..1/shmesh.yaml"), "a").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/shmesh.yaml", at("shmesh.yaml")).unwrap();
        let (_watcher, changes) = watch(&at("shmesh.yaml"));
        for generation in 2..5 {
            let real = format!("..{generation}");
            fs::create_dir(at(&real)).unwrap();
            fs::write(at(&real).join("shmesh.yaml"), &real).unwrap();
            symlink(&real, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            changes.recv_timeout(SOON).unwrap_or_else(|_| panic!("swap {generation}"));
        }
    }

    #[test]
    fn follows_a_link_to_another_directory() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, target) = (here.path().join("shmesh.yaml"), there.path().join("real.yaml"));
        fs::write(&target, "a").unwrap();
        symlink(&target, &link).unwrap();
        let (_watcher, changes) = watch(&link);
        fs::write(&target, "b").unwrap();
        changes.recv_timeout(SOON).expect("the target changed");
    }

    #[test]
    fn a_directory_that_is_not_there_is_refused() {
        let error = Watcher::start(Path::new("/nonexistent/shmesh.yaml"), || {}).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent cannot be watched: "), "{error}");
    }
}
