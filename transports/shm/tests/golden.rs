//! The golden segments of `tests/vectors/shm`: what `LaneEnd` makes of each, on either side. Their format is in the README beside them;
//! the C program of `tests/c` reads the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shmesh_shm::geometry::{RELEASED, RELEASES_AT, SLOT_WORDS};
use shmesh_shm::{CallState, Geometry, Header, Kind, LaneEnd, Mapping, Side, Violation};

/// Where in an entry the offset of its block is.
const BLOCK_AT: usize = 28;

type Fault = Result<(), String>;

/// One side of a lane whose other side is the file.
struct Reader {
    lane: LaneEnd,
    mine: Arc<Mapping>,
    theirs: Arc<Mapping>,
    geometry: Geometry,
}

impl Reader {
    fn new(side: &str, sizes: &[u32]) -> Result<Reader, String> {
        let &[entries, stride, slots, arena_bytes, block_min, block_max, window] = sizes else {
            return Err(format!("a geometry has seven sizes, not {}", sizes.len()));
        };
        let geometry = Geometry { entries, stride, slots, arena_bytes, block_min, block_max, window };
        geometry.validate().map_err(|error| error.to_string())?;
        let segment = || Arc::new(Mapping::private(geometry.segment_bytes(1)).expect("memory"));
        let (to_proxy, to_app) = (segment(), segment());
        let (side, mine, theirs) = match side {
            "app" => (Side::App, &to_proxy, &to_app),
            "sidecar" => (Side::Sidecar, &to_app, &to_proxy),
            other => return Err(format!("no side {other}")),
        };
        let lane = LaneEnd::new(side, &to_proxy, &to_app, &geometry, 0);
        Ok(Reader { lane, mine: mine.clone(), theirs: theirs.clone(), geometry })
    }

    fn step(&mut self, verb: &str, words: &str) -> Fault {
        match verb {
            "at" => {
                let (at, bytes) = place(words)?;
                self.theirs.write_bytes(at, &bytes);
                Ok(())
            }
            "mine" => {
                let (at, bytes) = place(words)?;
                let mut found = vec![0; bytes.len()];
                self.mine.read_bytes(at, &mut found);
                same("the reader's own bytes", &found, &bytes)
            }
            "record" => self.record(words),
            "none" => same("the next record", &self.lane.peek(), &Ok(None)),
            "put" => self.put(number(words)? as usize),
            "release" => self.release(number(words)? as usize),
            "unconsumed" => same(verb, &u64::from(self.lane.unconsumed()), &number(words)?),
            "lent" => same(verb, &u64::from(self.lane.lent_blocks()), &number(words)?),
            "state" => self.state(words),
            "withdrawn" => self.withdrawn(words),
            "breach" => {
                let found = self.look().map_err(Violation::reason);
                same("the violation", &found.err(), &Some(words))
            }
            other => Err(format!("no step {other}")),
        }
    }

    /// Looks at all that the peer writes.
    fn look(&mut self) -> Result<Option<Header>, Violation> {
        self.lane.unconsumed();
        self.lane.lent_blocks();
        self.lane.peek()
    }

    fn record(&mut self, words: &str) -> Fault {
        let Some(header) = self.lane.peek().map_err(|violation| violation.to_string())? else {
            return Err("there is no record".to_owned());
        };
        let mut words = words.split(' ');
        let kind = words.next().unwrap_or_default();
        same("the kind", &format!("{:?}", header.kind).to_lowercase().as_str(), &kind)?;
        let mut found = BTreeMap::from([
            ("flags", u64::from(header.flags.0)),
            ("code", u64::from(header.code)),
            ("slot", u64::from(header.slot)),
            ("generation", header.generation),
            ("route", u64::from(header.route)),
            ("head_len", u64::from(header.head_len)),
            ("length", u64::from(header.length)),
            ("deadline_us", u64::from(header.deadline_us)),
            ("credit", u64::from(header.credit)),
            ("total", header.total.wrapping_add(1)),
            ("in_block", u64::from(self.lane.is_in_block())),
        ]);
        let mut payload = Vec::new();
        for word in words {
            match word.split_once('=').ok_or_else(|| format!("no value: {word}"))? {
                ("payload", value) => payload = hex(value)?,
                (field, value) => {
                    let is = found.remove(field).ok_or_else(|| format!("no field {field}, or twice"))?;
                    let known = number(value)?.wrapping_add(u64::from(field == "total"));
                    same(field, &is, &known)?;
                }
            }
        }
        for (field, value) in found {
            same(field, &value, &0)?;
        }
        let mut bytes = Vec::new();
        self.lane.append_payload(0..header.length, &mut bytes).map_err(|violation| violation.to_string())?;
        same("the payload", &bytes, &payload)?;
        self.lane.advance();
        self.lane.publish();
        Ok(())
    }

    fn put(&mut self, len: usize) -> Fault {
        self.lane.put(&Header::new(Kind::Data, 1, 1), &[&vec![0x5a; len]]).map_err(|error| error.to_string())?;
        self.lane.publish();
        Ok(())
    }

    fn release(&mut self, record: usize) -> Fault {
        let (lane, geometry) = (self.geometry.lane_at(0), &self.geometry);
        let entry = record % geometry.entries as usize * geometry.stride as usize;
        let block = self.mine.load_u32(lane + geometry.ring_at() + entry + BLOCK_AT);
        let released = self.theirs.load(lane + RELEASED);
        let place = released as usize % geometry.release_entries() as usize;
        self.theirs.store_u32(lane + RELEASES_AT + 4 * place, block);
        self.theirs.store(lane + RELEASED, released + 1);
        Ok(())
    }

    fn state(&self, words: &str) -> Fault {
        let (slot, generation, name) = call(words)?;
        let state = match name {
            "free" => CallState::Free,
            "accepted" => CallState::Accepted,
            "forwarded" => CallState::Forwarded,
            "answered" => CallState::Answered,
            other => return Err(format!("no state {other}")),
        };
        same("the state", &self.lane.state(slot), &(generation, state))
    }

    fn withdrawn(&self, words: &str) -> Fault {
        let (slot, generation, answer) = call(words)?;
        if slot >= self.geometry.slots || SLOT_WORDS + 8 * slot as usize >= self.geometry.ring_at() {
            return Err(format!("no slot {slot}"));
        }
        same("withdrawn", &if self.lane.is_withdrawn(slot, generation) { "yes" } else { "no" }, &answer)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Fault {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

fn number(word: &str) -> Result<u64, String> {
    match word {
        "none" => Ok(0xFFFF_FFFF),
        _ => word.parse().map_err(|_| format!("not a number: {word}")),
    }
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let digits = digits.replace(' ', "");
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
            u8::from_str_radix(pair, 16).map_err(|_| format!("not hexadecimal: {pair}"))
        })
        .collect()
}

/// `OFFSET BYTES`
fn place(words: &str) -> Result<(usize, Vec<u8>), String> {
    let (at, bytes) = words.split_once(' ').ok_or("no bytes")?;
    Ok((usize::from_str_radix(at, 16).map_err(|_| format!("not an offset: {at}"))?, hex(bytes)?))
}

/// `SLOT GENERATION WORD`
fn call(words: &str) -> Result<(u32, u64, &str), String> {
    let mut words = words.split(' ');
    let mut next = || words.next().ok_or("three words are needed");
    Ok((number(next()?)? as u32, number(next()?)?, next()?))
}

fn run(file: &Path) -> Fault {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut reader = None;
    for (line, words) in text.lines().enumerate() {
        if words.starts_with('#') || words.is_empty() {
            continue;
        }
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        let step = match (&mut reader, verb) {
            (none @ None, "reader") => {
                let mut words = rest.split(' ');
                let side = words.next().unwrap_or_default();
                let sizes: Result<Vec<u32>, _> = words.map(|word| number(word).map(|size| size as u32)).collect();
                sizes.and_then(|sizes| Reader::new(side, &sizes)).map(|reader| *none = Some(reader))
            }
            (None, _) => Err("the first step says who reads".to_owned()),
            (Some(reader), _) => reader.step(verb, rest),
        };
        step.map_err(|fault| format!("line {}: {fault}", line + 1))?;
    }
    reader.map(|_| ()).ok_or_else(|| "it is empty".to_owned())
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/shm");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the vectors")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_stem().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn every_golden_segment_is_read_as_it_says() {
    let files = files();
    assert!(files.len() >= 60, "{} files", files.len());
    let faults: Vec<String> =
        files.iter().filter_map(|file| run(file).err().map(|fault| format!("{}: {fault}", name(file)))).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each violation that a segment can hold is in at least one file, and what is called a breach is one.
#[test]
fn every_violation_has_a_golden_segment() {
    let mut seen: Vec<String> = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("text");
        let breaches: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("breach ")).map(str::to_owned).collect();
        assert_eq!(name(&file).starts_with("breach-"), !breaches.is_empty(), "{}", name(&file));
        seen.extend(breaches);
    }
    for violation in [
        Violation::Published,
        Violation::Consumed,
        Violation::Released,
        Violation::ReleasedBlock,
        Violation::Kind,
        Violation::Flags,
        Violation::Code,
        Violation::Slot,
        Violation::Generation,
        Violation::Route,
        Violation::Head,
        Violation::Length,
        Violation::Block,
        Violation::Direction,
    ] {
        assert!(seen.iter().any(|name| name == violation.reason()), "no golden segment for {violation:?}");
    }
}

/// A reader that notices nothing would pass no file: each step fails when it is not as told.
#[test]
fn a_wrong_expectation_is_noticed() {
    let begin = "reader sidecar 8 128 4 4096 64 1024 1024\n";
    for wrong in [
        "record data slot=1 generation=1",
        "unconsumed 1",
        "lent 1",
        "mine 1000 01",
        "state 0 1 accepted",
        "withdrawn 0 1 yes",
        "breach kind",
        "at 1000 01\nnone",
        "at 1000 01\nat 3000 04 00 00 00 01 00 00 00 01\nrecord data slot=1 generation=2",
        "nonsense",
    ] {
        let file = std::env::temp_dir().join(format!("shmesh-golden-{}.txt", std::process::id()));
        std::fs::write(&file, format!("{begin}{wrong}\n")).expect("a file");
        let outcome = run(&file);
        std::fs::remove_file(&file).expect("a file");
        assert!(outcome.is_err(), "{wrong}");
    }
}
