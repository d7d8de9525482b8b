//! The page docs/spec/shm-v1.md is normative: this reads its tables and compares every offset and value with the code.

mod pair;

use std::collections::BTreeMap;

use pair::{SMALL, pair};
use shmesh_shm::geometry::{self, Geometry};
use shmesh_shm::handshake::{self, Message, Policy, RefusedCode};
use shmesh_shm::{CallState, Flags, Header, INLINE_KEY, Kind, MAX_GENERATION, Priority, Protocol, ROUTE_IDS, Reset};

const PAGE: &str = include_str!("../../../docs/spec/shm-v1.md");

type Table = Vec<Vec<String>>;

/// The table whose first line has these cells first, without that line.
fn table(first_cells: &[&str]) -> Table {
    tables()
        .into_iter()
        .find(|table| starts_with(&table[0], first_cells))
        .map_or_else(|| panic!("the page has no table that begins with {first_cells:?}"), |table| table[1..].to_vec())
}

fn tables() -> Vec<Table> {
    let mut tables = vec![Table::new()];
    for line in PAGE.lines() {
        match line.trim().strip_prefix('|') {
            Some(row) if row.starts_with("---") => {}
            Some(row) => tables.last_mut().unwrap().push(cells(row)),
            None if !tables.last().unwrap().is_empty() => tables.push(Table::new()),
            None => {}
        }
    }
    tables.retain(|table| !table.is_empty());
    tables
}

fn cells(row: &str) -> Vec<String> {
    row.trim_end_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

fn starts_with(row: &[String], cells: &[&str]) -> bool {
    row.len() >= cells.len() && row.iter().zip(cells).all(|(have, want)| have == want)
}

/// Number → name of a table whose first two columns are those.
fn numbered(first_cells: &[&str]) -> BTreeMap<u64, String> {
    table(first_cells).iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect()
}

/// What the code calls each number below 64 for which it has a name.
fn named(name: impl Fn(u16) -> Option<String>) -> BTreeMap<u64, String> {
    (0..64).filter_map(|number| Some((u64::from(number), name(number)?))).collect()
}

#[test]
fn lane_control_page() {
    let words = [
        ("published", geometry::PUBLISHED),
        ("consumed", geometry::CONSUMED),
        ("released", geometry::RELEASED),
        ("parked", geometry::PARKED),
        ("withdrawn", geometry::WITHDRAWN),
        ("asked, told", geometry::SIGN_OF_LIFE),
    ];
    let rows = table(&["offset", "size", "name", "meaning", "stored"]);
    assert_eq!(rows.len(), words.len() + 1);
    for (row, (name, offset)) in rows.iter().zip(words) {
        assert_eq!((row[0].as_str(), row[1].as_str(), row[2].as_str()), (&*offset.to_string(), "8", name));
    }
    assert_eq!(rows[6][0], format!("{} + 8·s", geometry::SLOT_WORDS));
}

#[test]
fn features() {
    let bits = numbered(&["bit", "feature"]);
    let known = [
        (handshake::FEATURE_LIVENESS, "liveness"),
        (handshake::FEATURE_POLICY, "policy"),
        (handshake::FEATURE_PRIORITY, "priority"),
    ];
    assert_eq!(bits, known.map(|(bit, name)| (bit.trailing_zeros().into(), name.to_owned())).into());
}

#[test]
fn session_page() {
    let rows = table(&["offset", "size", "in to_proxy (app writes)"]);
    assert_eq!(rows[0][0], geometry::DIRECT_MODE.to_string());
    assert_eq!(rows[1][0], format!("{} + {}·w", geometry::worker_word(0), geometry::WORKER_WORD_STRIDE));
    assert_eq!(geometry::worker_word(3), 64 + 3 * 64);
}

/// Puts a record with a value of its own in each field, and looks for each at the page's offset.
#[test]
fn record_header() {
    let mut values: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lane = pair(SMALL);
    let header = Header {
        kind: Kind::Open,
        flags: Flags::END | Flags::ONE_WAY,
        code: 0x0102,
        slot: 3,
        generation: 0x0000_1122_3344_5566,
        route: 0xa1a2_a3a4,
        head_len: 0x0b1b,
        length: 0,
        deadline_us: 0xd1d2_d3d4,
        credit: 0xc1c2_c3c4,
        total: 0xe1e2_e3e4_e5e6_e7e8,
    };
    lane.app.put(&header, &[&[7; 200]]).unwrap();
    values.extend([("kind", 2), ("flags", 5), ("code", 0x0102), ("slot", 3)]);
    values.extend([("generation", header.generation), ("route", 0xa1a2_a3a4), ("head_len", 0x0b1b)]);
    values.extend([("length", 200), ("deadline_us", 0xd1d2_d3d4), ("credit", 0xc1c2_c3c4)]);
    values.extend([("block", 0), ("total", header.total)]);

    let entry = SMALL.lane_at(0) + SMALL.ring_at();
    let rows = table(&["offset", "size", "name", "valid"]);
    assert_eq!(rows.len(), values.len());
    for row in &rows {
        let (offset, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        let mut bytes = [0; 8];
        lane.to_proxy.read_bytes(entry + offset, &mut bytes[..size]);
        assert_eq!(u64::from_le_bytes(bytes), values[row[2].as_str()], "{}", row[2]);
    }
    let last = rows.last().unwrap();
    let end = last[0].parse::<u32>().unwrap() + last[1].parse::<u32>().unwrap();
    assert_eq!(end, geometry::HEADER_BYTES);

    lane.app.put(&header, &[b"inline"]).unwrap();
    let second = entry + SMALL.stride as usize;
    assert_eq!(lane.to_proxy.load_u32(second + 28), 0xFFFF_FFFF, "inline");
    let mut bytes = [0; 6];
    lane.to_proxy.read_bytes(second + 48, &mut bytes);
    assert_eq!(&bytes, b"inline");
}

#[test]
fn kinds() {
    let code = named(|n| Kind::from_u8(n as u8).map(|kind| format!("{kind:?}").to_uppercase()));
    assert_eq!(numbered(&["kind", "name", "sent by"]), code);
}

#[test]
fn reset_codes() {
    let code = named(|n| Reset::from_u16(n).map(|reset| reset.name().to_owned()));
    assert_eq!(numbered(&["code of RESET", "name"]), code);
}

#[test]
fn call_states() {
    let code = (0..4).map(|n| (n, format!("{:?}", CallState::of_word(n).1).to_lowercase())).collect();
    assert_eq!(numbered(&["state", "name", "stored by the sidecar"]), code);
    assert!(PAGE.contains("`generation << 2 | state`"));
    assert_eq!(CallState::Forwarded.word(5), 5 << 2 | 2);
    assert_eq!(CallState::of_word(CallState::Answered.word(MAX_GENERATION)), (MAX_GENERATION, CallState::Answered));
}

#[test]
fn protocols_and_flags() {
    let protocols = [Protocol::Http, Protocol::Dubbo2, Protocol::Raw].map(|p| p as u16);
    assert!(PAGE.contains("Protocols (`code` of DEFINE and OPEN): 1 HTTP, 2 Dubbo2, 3 raw."));
    assert_eq!(protocols, [1, 2, 3]);
    assert_eq!((0..64).filter(|n| Protocol::from_u16(*n).is_some()).count(), 3);
    assert!(PAGE.contains("bit 0 END, bit 1 STREAM, bit 2 ONE_WAY"));
    assert_eq!([Flags::END.0, Flags::STREAM.0, Flags::ONE_WAY.0], [1 << 0, 1 << 1, 1 << 2]);
    assert!(PAGE.contains("0xFFFFFFFF = the key is in this record"));
    assert_eq!(INLINE_KEY, 0xFFFF_FFFF);
}

#[test]
fn messages() {
    let rows = table(&["offset", "size", "field"]);
    assert_eq!(rows.last().unwrap()[0], (handshake::MESSAGE_HEADER_BYTES - 4).to_string());
    assert_eq!(rows[0][2], format!("magic 0x{:08X}", handshake::MAGIC));
    assert!(rows[2][2].ends_with(&handshake::VERSION.to_string()));

    let mut bytes = Vec::new();
    Message::GoAway.encode(&mut bytes).unwrap();
    assert_eq!(bytes, b"SHMS\x06\0\x01\0\0\0\0\0\0\0\0\0");

    let names = ["HELLO", "WELCOME", "REFUSED", "LOOKUP", "ENDPOINTS", "GOAWAY", "POLICY", "SERVES_AT"];
    let types = numbered(&["type", "name", "direction"]);
    assert_eq!(types, (1..).zip(names.map(String::from)).collect());
    for (number, _) in types {
        let mut message = bytes.clone();
        message[4] = number as u8;
        let unknown = matches!(Message::decode(&message), Err(handshake::HandshakeError::Type(_)));
        assert!(!unknown, "type {number}");
    }
    assert!(PAGE.contains("REFUSED codes: 1 version"));
    assert!(PAGE.contains("2 identity, 3 limit, 4 name taken, 5 malformed"));
    let codes = [
        RefusedCode::Version,
        RefusedCode::Identity,
        RefusedCode::Limit,
        RefusedCode::NameTaken,
        RefusedCode::Malformed,
    ];
    assert_eq!(codes.map(|code| code as u16), [1, 2, 3, 4, 5]);
    assert!(PAGE.contains("path (≤ 107 bytes, absolute)") && handshake::MAX_PATH_BYTES == 107);
    assert!(PAGE.contains("a payload of at most 65,536") && handshake::MAX_MESSAGE_BYTES == 65_536);
    assert!(PAGE.contains("UTF-8, ≤ 64 bytes") && handshake::MAX_NAME_BYTES == 64);
    assert!(PAGE.contains("says nothing for 5 s before WELCOME") && handshake::SILENCE_MS_MAX == 5_000);
}

/// Each field alone, found under the tag of the page, with the length of its value.
#[test]
fn fields_of_a_policy() {
    let text = || vec!["t".to_owned()];
    let time = Some(std::time::Duration::from_micros(0x0102_0304));
    let none = Policy::default;
    let fields = [
        ("endpoint", Policy { endpoints: text(), ..none() }),
        ("connect timeout", Policy { connect_timeout: time, ..none() }),
        ("first-byte timeout", Policy { first_byte_timeout: time, ..none() }),
        ("request timeout", Policy { request_timeout: time, ..none() }),
        ("attempts", Policy { attempts: Some(0x0102_0304), ..none() }),
        ("idempotent", Policy { idempotent: Some(true), ..none() }),
        ("listener", Policy { listeners: text(), ..none() }),
        ("central proxy", Policy { central_proxy: Some("t".into()), ..none() }),
        ("app socket", Policy { app_sockets: text(), ..none() }),
        ("priority", Policy { priority: Some(Priority::Default), ..none() }),
    ];
    let rows = table(&["tag", "field", "value"]);
    assert_eq!(rows.len(), fields.len());
    for (row, (name, policy)) in rows.iter().zip(fields) {
        let value: &[u8] = match row[2].split(',').next().unwrap() {
            "text" => b"t",
            "µs u64" => &[4, 3, 2, 1, 0, 0, 0, 0],
            "u32" => &[4, 3, 2, 1],
            "u8" => &[1],
            other => panic!("{other}"),
        };
        let mut expected = row[0].parse::<u16>().unwrap().to_le_bytes().to_vec();
        expected.extend_from_slice(&(value.len() as u16).to_le_bytes());
        expected.extend_from_slice(value);
        let mut bytes = Vec::new();
        policy.encode(&mut bytes).unwrap();
        assert_eq!((row[1].as_str(), &bytes), (name, &expected));
    }
}

#[test]
fn limits() {
    let limits: BTreeMap<String, String> =
        table(&["name", "value"]).into_iter().map(|row| (row[0].clone(), row[1].replace(',', ""))).collect();
    assert_eq!(limits["workers"], geometry::MAX_WORKERS.to_string());
    let lanes = format!("{} a worker and at most {}", geometry::MAX_LANES_PER_WORKER, geometry::MAX_LANES);
    assert_eq!(limits["lanes of a session"], lanes);
    assert_eq!(limits["slots of a lane"], geometry::MAX_SLOTS.to_string());
    assert_eq!(limits["route ids of a lane"], ROUTE_IDS.to_string());
    assert!(limits["key or head"].starts_with(&format!("{} bytes", geometry::MAX_HEAD_BYTES)));
    assert!(limits["generations"].starts_with("2^48 − 1") && MAX_GENERATION == (1 << 48) - 1);
    assert_eq!(limits["entries of a ring"].split(';').next().unwrap(), geometry::MAX_ENTRIES.to_string());
    assert!(limits["stride"].starts_with(&geometry::MAX_STRIDE.to_string()));
    assert!(limits["arena of a lane"].starts_with("1 GiB") && geometry::MAX_ARENA_BYTES == 1 << 30);
}

#[test]
fn defaults() {
    let g = Geometry::default();
    let sentence = format!(
        "entries {}, stride {}, slots {}, arena {} MiB, block_min {} KiB, block_max {} KiB, window {} KiB",
        g.entries,
        g.stride,
        g.slots,
        g.arena_bytes >> 20,
        g.block_min >> 10,
        g.block_max >> 10,
        g.window >> 10
    );
    assert!(PAGE.contains(&sentence), "{sentence}");
}

#[test]
fn layout_formulas() {
    for line in [
        "releases_at = 4096",
        "ring_at     = releases_at + round_up(4 · release_entries, 4096)",
        "arena_at    = ring_at + round_up(entries · stride, 4096)",
        "lane_bytes  = arena_at + arena_bytes",
    ] {
        assert!(PAGE.contains(line), "{line}");
    }
    for g in [
        SMALL,
        Geometry::default(),
        Geometry { arena_bytes: 3 << 20, block_max: 1 << 20, window: 1 << 20, ..Geometry::default() },
    ] {
        g.validate().unwrap();
        let up = |bytes: usize| bytes.div_ceil(4096) * 4096;
        let ring_at = 4096 + up(4 * g.release_entries() as usize);
        let arena_at = ring_at + up((g.entries * g.stride) as usize);
        assert_eq!((g.ring_at(), g.arena_at()), (ring_at, arena_at));
        assert_eq!(g.lane_bytes(), arena_at + g.arena_bytes as usize);
        assert_eq!(g.lane_at(5), 4096 + 5 * g.lane_bytes());
        assert!(g.release_entries() >= g.arena_bytes / g.block_min);
    }
}
