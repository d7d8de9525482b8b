//! Child processes of these tests: the test binary once more, told by its environment what to be.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a child is to be; set for children only.
const ROLE: &str = "SHMESH_HOSTILE_ROLE";
/// The session socket that it is given.
const SOCKET: &str = "SHMESH_HOSTILE_SOCKET";

/// A child, killed when it is dropped.
pub struct Actor {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Actor {
    /// Starts one of this test's own user.
    pub fn start(role: &str, socket: &Path) -> Actor {
        Self::spawn(Command::new(std::env::current_exe().expect("a path")), role, socket)
    }

    /// Starts one of another user, from a copy in `folder` that this user can read.
    pub fn start_as(uid: u32, folder: &Path, role: &str, socket: &Path) -> Actor {
        let copy: PathBuf = folder.join("actor");
        std::fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
        for path in [folder, &copy] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("our own");
        }
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o666)).expect("our own");
        let mut command = Command::new(copy);
        command.uid(uid).gid(uid).current_dir("/");
        Self::spawn(command, role, socket)
    }

    fn spawn(mut command: Command, role: &str, socket: &Path) -> Actor {
        // Its "test" does what the role says.
        let mut child = command
            .args(["--exact", "role::play", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Actor { child, lines }
    }

    /// The next word that it says to the test.
    pub fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let len = self.lines.read_line(&mut line).expect("text");
            assert!(len > 0, "the actor ended without a word");
            // The harness of the test in the child says things as well, before it on the same line.
            if let Some((_, word)) = line.trim_end().split_once("says: ") {
                return word.to_owned();
            }
        }
    }

    pub fn expect(&mut self, word: &str) {
        assert_eq!(self.hear(), word);
    }

    /// Lets an actor go on that waits for its cue.
    pub fn cue(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("it reads");
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Whether a SIGSTOP has arrived.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
    }

    /// Kills it with SIGKILL; it is gone when this returns.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

/// In an actor: says a word to the test.
pub fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "says: {word}");
    let _ = out.flush();
}

/// In an actor: waits for the cue. One whose test is gone ends.
pub fn await_cue() {
    if std::io::stdin().read(&mut [0]).unwrap_or(0) == 0 {
        std::process::exit(0);
    }
}

/// Nothing in the test process itself; the whole life of an actor.
#[test]
fn play() {
    let (Ok(role), Some(socket)) = (std::env::var(ROLE), std::env::var_os(SOCKET)) else { return };
    let socket = Path::new(&socket);
    match role.split_once(':').unwrap_or((&role, "")) {
        ("reopens", _) => crate::abuse::memory::reopen(socket),
        ("forks", _) => crate::abuse::lives::fork(socket),
        ("holds", _) => await_cue(),
        ("serves", _) => crate::abuse::lives::serve(socket),
        ("stops-at", step) => crate::abuse::lives::stop_at(socket, step),
        _ => panic!("no role {role}"),
    }
}
