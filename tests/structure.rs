//! The shape of the workspace: which crate may know which, where unsafe code may be, how long a file may get, what lies at the
//! top. Where one of these fails, the rule is in the message; docs/ARCHITECTURE.md says why.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may depend on, of this workspace. Test-only dependencies count as well, except where listed below.
const MAY_KNOW: [(&str, &[&str]); 16] = [
    ("shmesh-proto", &[]),
    ("shmesh-policy", &["shmesh-proto"]),
    ("shmesh-shm", &[]),
    // The driver sends blocks of a lane from where they lie.
    ("shmesh-io", &["shmesh-shm"]),
    ("shmesh-engine", &["shmesh-proto", "shmesh-policy", "shmesh-shm", "shmesh-io"]),
    ("shmesh-client", &["shmesh-proto", "shmesh-policy", "shmesh-shm"]),
    ("shmesh-config", &["shmesh-policy"]),
    ("shmesh-admin", &["shmesh-policy"]),
    ("shmesh-metrics", &["shmesh-policy"]),
    // Answers what workers ask.
    ("shmesh-names", &["shmesh-engine"]),
    ("shmesh-supervisor", &[]),
    // Looks at how these two were compiled.
    ("shmesh-compiled", &["shmesh-shm", "shmesh-io"]),
    // An app like others.
    ("shmesh-chaos", &["shmesh-client"]),
    // The binary wires everything together; the benches measure everything.
    ("shmesh", EVERYTHING),
    ("shmesh-benches", EVERYTHING),
    // So does the simulation, which runs it all.
    ("shmesh-sim", EVERYTHING),
];

const EVERYTHING: &[&str] = &["*"];

/// Further dependencies that only tests, examples and benches may have.
const TESTS_MAY_KNOW: [(&str, &[&str]); 1] = [("shmesh-engine", &["shmesh-config", "shmesh-client"])];

/// Crates with modules of unsafe code, which docs/ARCHITECTURE.md names.
const WITH_UNSAFE: [&str; 3] = ["shmesh-shm", "shmesh-io", "shmesh-compiled"];

/// Everything that may lie at the top, besides dotfiles.
const AT_THE_TOP: [&str; 16] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "client",
    "control",
    "core",
    "deny.toml",
    "docs",
    "justfile",
    "rustfmt.toml",
    "tests",
    "transports",
];

const LINES_MAX: usize = 700;

/// Files that are longer all the same, each with a reason; empty is best.
const LONGER_FILES: [&str; 0] = [];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// Packages of the workspace.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("a list").clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

fn list_of<'a>(table: &[(&str, &'a [&'a str])], crate_name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(name, _)| *name == crate_name).map(|(_, list)| *list)
}

#[test]
fn crates_know_only_whom_they_may() {
    let packages = packages();
    let local: Vec<&str> = packages.iter().map(name).collect();
    let mut faults = Vec::new();
    for package in &packages {
        let Some(may_know) = list_of(&MAY_KNOW, name(package)) else {
            faults.push(format!("{} has no line in MAY_KNOW of tests/structure.rs", name(package)));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("a list") {
            let on = name(dependency);
            let for_tests = dependency["kind"] == "dev";
            let in_tests = for_tests && list_of(&TESTS_MAY_KNOW, name(package)).is_some_and(|list| list.contains(&on));
            if local.contains(&on) && may_know != EVERYTHING && !may_know.contains(&on) && !in_tests {
                faults.push(format!("{} must not depend on {on}: it may know {may_know:?}", name(package)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nobody_depends_on_the_binary() {
    for package in packages() {
        for dependency in package["dependencies"].as_array().expect("a list") {
            assert_ne!(name(dependency), "shmesh", "of {}", name(&package));
        }
    }
}

/// A sidecar's data path and its shim must stay small: what they may not pull in, however far down.
#[test]
fn the_shim_and_the_data_path_stay_thin() {
    for (crate_name, heavy) in [
        ("shmesh-client", &["tokio", "serde", "hyper", "axum", "tracing", "regex"][..]),
        ("shmesh-engine", &["tokio", "serde", "hyper", "axum", "regex"]),
        ("shmesh-proto", &["tokio", "serde", "bytes", "libc"]),
        ("shmesh-policy", &["tokio", "serde", "libc", "nix"]),
    ] {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--package",
                crate_name,
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
            ])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        for dependency in tree.lines().filter_map(|line| line.split(' ').next()) {
            assert!(!heavy.contains(&dependency), "{crate_name} pulls in {dependency}");
        }
    }
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    for package in packages() {
        let with_unsafe = WITH_UNSAFE.contains(&name(&package));
        for target in package["targets"].as_array().expect("a list") {
            let kind = target["kind"][0].as_str().expect("a kind");
            let path = target["src_path"].as_str().expect("a path");
            let text = std::fs::read_to_string(path).expect("a file");
            let forbids = text.contains("#![forbid(unsafe_code)]");
            match kind {
                "lib" | "bin" if with_unsafe => {
                    assert!(text.contains("#![deny(unsafe_code)]"), "{path} must begin with #![deny(unsafe_code)]");
                }
                "lib" | "bin" => assert!(forbids, "{path} must begin with #![forbid(unsafe_code)]"),
                _ => {}
            }
        }
    }
}

#[test]
fn the_top_level_is_fixed() {
    // What git ignores lies there, too.
    let ignored = std::fs::read_to_string(root().join(".gitignore")).expect("a .gitignore");
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(root()).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        let known = name.starts_with('.')
            || AT_THE_TOP.contains(&name.as_str())
            || ignored.lines().any(|line| line.trim_matches('/') == name);
        entries.insert(name, known);
    }
    let unknown: Vec<&String> = entries.iter().filter(|(_, known)| !**known).map(|(name, _)| name).collect();
    assert!(unknown.is_empty(), "these do not belong at the top: {unknown:?}");
}

#[test]
fn files_are_short_enough_to_read() {
    let mut long = Vec::new();
    for folder in ["benches", "client", "control", "core", "tests", "transports"] {
        each_rust_file(&root().join(folder), &mut |path| {
            let lines = std::fs::read_to_string(path).expect("a file").lines().count();
            let shown = path.strip_prefix(root()).expect("inside").display().to_string();
            if lines > LINES_MAX && !LONGER_FILES.contains(&shown.as_str()) {
                long.push(format!("{shown}: {lines} lines"));
            }
        });
    }
    assert!(long.is_empty(), "more than {LINES_MAX} lines; cut them where an idea ends:\n{}", long.join("\n"));
}

/// The tests that docs/PROTOCOLS.md names as its evidence are there.
#[test]
fn the_tests_that_the_page_of_protocols_names_exist() {
    let page = std::fs::read_to_string(root().join("docs/PROTOCOLS.md")).expect("a page");
    let mut code = String::new();
    for folder in ["core", "tests"] {
        each_rust_file(&root().join(folder), &mut |path| code += &std::fs::read_to_string(path).expect("a file"));
    }
    let (mut named, mut in_table) = (0, false);
    for line in page.lines() {
        // A table whose last column is `tests`, up to its end.
        in_table = line.ends_with("| tests |") || in_table && line.starts_with('|');
        if !in_table || line.ends_with("| tests |") || line.starts_with("|-") {
            continue;
        }
        let tests = line.trim_end_matches(" |").rsplit(" | ").next().expect("a last cell");
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {line}");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "there is no test `{name}`: {line}");
            named += 1;
        }
    }
    assert!(named > 50, "{named} tests are named");
}

fn each_rust_file(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != ".cache") {
            each_rust_file(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path);
        }
    }
}
