//! The walker beside hessian.js, which wrote and read the bodies in the file that `SHMESH_HESSIAN_FRAMES` names.
//!
//! `tests/interop/hessian/run.sh` makes that file and runs this; `frames.js` there says what is in it.

use std::fs;

use super::vectors::done;
use crate::dubbo::cursor::Cursor;
use crate::dubbo::hessian::decode_text;
use crate::dubbo::hessian_walker::Walker;
use crate::dubbo::serialization::HESSIAN2;
use crate::dubbo::*;

const FILE: &str = "SHMESH_HESSIAN_FRAMES";
const KEYS: [&str; 2] = ["group", "dubbo.tag"];
const NONE: u32 = u32::MAX;

/// A body, and what hessian.js found in it.
struct Record<'a> {
    /// As it was encoded; otherwise something in it was changed.
    encoded: bool,
    body: &'a [u8],
    /// Where each argument ends, and the attachments behind them; 0 from what was refused on.
    ends: Vec<u32>,
    values: [Option<String>; 2],
}

struct Records<'a> {
    left: &'a [u8],
}

impl<'a> Records<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(len);
        self.left = left;
        taken
    }

    fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn value(&mut self) -> Option<String> {
        let units = self.number();
        (units != NONE).then(|| {
            let units = self.take(2 * units as usize).chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.left.is_empty() {
            return None;
        }
        let encoded = self.take(1)[0] == 1;
        let len = self.number() as usize;
        let body = self.take(len);
        let arguments = self.take(1)[0];
        let ends = (0..=arguments).map(|_| self.number()).collect();
        let values = [self.value(), self.value()];
        Some(Record { encoded, body, ends, values })
    }
}

/// What the walker finds, in the same form.
fn walk(body: &[u8], count: usize) -> (Vec<u32>, Option<[Option<String>; 2]>) {
    let peek = done(peek_request(HESSIAN2, body, true));
    let mut cursor = Cursor::new(body, peek.arguments_at);
    let mut walker = Walker::new();
    let mut ends: Vec<_> = (0..count).map_while(|_| walker.skip(&mut cursor).ok().map(|()| cursor.at())).collect();
    ends.resize(count, 0);
    let mut values = [None; KEYS.len()];
    let are_read = attachments(HESSIAN2, body, &peek, &KEYS, &mut values).is_ok();
    (ends, are_read.then(|| values.map(|value| value.map(|span| decode_text(span.of(body).to_vec())))))
}

#[test]
#[ignore = "reads what tests/interop/hessian has hessian.js write"]
fn the_walker_ends_where_hessian_js_ends() {
    let file = fs::read(std::env::var(FILE).expect(FILE)).unwrap();
    let (mut encoded, mut changed, mut both_read, mut both_refused) = (0, 0, 0, 0);
    for (index, record) in (Records { left: &file }).enumerate() {
        let (ends, values) = walk(record.body, record.ends.len());
        let told = || format!("record {index}: {:02x?}", record.body);
        if record.encoded {
            encoded += 1;
            assert_eq!(ends, record.ends, "{}", told());
            assert_eq!(values.as_ref(), Some(&record.values), "{}", told());
            continue;
        }
        changed += 1;
        for (ours, theirs) in ends.iter().zip(&record.ends) {
            match (*ours, *theirs) {
                (0, 0) => both_refused += 1,
                (0, _) | (_, 0) => {}
                (ours, theirs) => {
                    assert_eq!(ours, theirs, "{}", told());
                    both_read += 1;
                    continue;
                }
            }
            break;
        }
        if let (Some(values), Some(1..)) = (values, record.ends.last()) {
            assert_eq!(values, record.values, "{}", told());
        }
    }
    println!(
        "{encoded} bodies as encoded; {changed} changed: {both_read} values read alike, {both_refused} bodies refused by both"
    );
    // Else little was compared.
    assert!(encoded > 0 && both_read > changed / 2 && both_refused > changed / 10);
}
