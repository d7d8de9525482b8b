//! One worker on the `sim` driver between two apps, 64 calls in flight, each one record there and one back: what
//! `benches/instructions.sh` counts the instructions of. Every payload is written, read and checked.
//!
//! `cargo bench -p shmesh-engine --bench instructions -- ROUNDS` runs it natively.

#[path = "../core/engine/tests/app/mod.rs"]
mod app;

use app::{App, turn, turn_until};
use shmesh_io::sim::World;
use shmesh_shm::{Flags, Geometry, Header, Kind, Protocol as Spoken, TOTAL_UNKNOWN};

const IN_FLIGHT: u32 = 64;
const PAYLOAD: usize = 64;
const KEY: &[u8] = b"PUT /echo HTTP/1.1\r\nHost: local\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: echo\r\n\r\n";

fn main() {
    // Cargo passes `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(10_000u64);
    let world = World::new(1);
    let mut worker = app::engine(&world).workers.remove(0);
    let mut caller = App::attach(&mut worker, Geometry::default(), 1, "caller", false);
    let mut server = App::attach(&mut worker, Geometry::default(), 2, "server", true);

    let mut define = Header::new(Kind::Define, 0, 0);
    define.code = Spoken::Http as u16;
    caller.put(&define, &[KEY]);
    caller.publish();
    while caller.end.unconsumed() > 0 {
        turn(&world, &mut worker);
    }
    let mut calls = 0;
    for round in 0..rounds {
        for slot in 0..IN_FLIGHT {
            let mut open = Header::new(Kind::Open, slot, round + 1);
            open.code = Spoken::Http as u16;
            open.flags = Flags::END;
            caller.put(&open, &[&payload(round, slot)]);
        }
        caller.publish();
        turn_until(&world, &mut worker, &server);

        let mut taken = Vec::new();
        while let Some(open) = server.end.peek().expect("the worker keeps to the page") {
            assert_eq!((open.kind, open.flags.end()), (Kind::Open, true), "one record a call");
            let mut body = [0; PAYLOAD];
            assert_eq!(open.length as usize, open.head_len as usize + PAYLOAD);
            server.end.read_payload(open.head_len, &mut body).expect("inside of the payload");
            server.end.advance();
            taken.push((open.slot, open.generation, body));
        }
        for (slot, generation, body) in &taken {
            let mut answer = Header::new(Kind::Answer, *slot, *generation);
            answer.flags = Flags::END;
            answer.code = 200;
            answer.head_len = ANSWER.len() as u32;
            answer.total = TOTAL_UNKNOWN;
            server.put(&answer, &[ANSWER, body]);
        }
        server.publish();
        turn_until(&world, &mut worker, &caller);

        for _ in 0..IN_FLIGHT {
            let answer = caller.end.peek().expect("the worker keeps to the page").expect("all answers in one turn");
            let mut body = [0; PAYLOAD];
            assert_eq!((answer.kind, answer.code, answer.generation), (Kind::Answer, 200, round + 1));
            assert_eq!(answer.length as usize, answer.head_len as usize + PAYLOAD);
            caller.end.read_payload(answer.head_len, &mut body).expect("inside of the payload");
            caller.end.advance();
            assert_eq!(body, payload(round, answer.slot), "an answer of another call");
            calls += 1;
        }
    }
    println!("{calls} calls");
}

/// What a call carries; its answer must say the same.
fn payload(round: u64, slot: u32) -> [u8; PAYLOAD] {
    let seed = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(slot);
    let mut bytes = [0; PAYLOAD];
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&seed.rotate_left(i as u32 * 7).to_le_bytes());
    }
    bytes
}
