//! The strings in front of a Dubbo request's arguments in every serialization that is read, and the walk over the arguments in the two
//! in which there is one: it ends, and what it names lies in the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::dubbo::{PeekOutcome, attachments, first_argument, peek_request, serialization, service_version};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let serialization = match choice >> 2 {
        known @ (3 | 4 | 7 | 8 | 9 | 12) => known,
        _ if choice & 1 == 0 => serialization::HESSIAN2,
        _ => serialization::FASTJSON2,
    };
    let complete = choice & 2 == 0;
    let Ok(PeekOutcome::Done(peek)) = peek_request(serialization, body, complete) else { return };
    let texts = peek.texts(body);
    let _ = (peek.path.of(texts), peek.method.of(texts), peek.descriptor.of(texts), service_version(&peek, body));
    let mut values = [None; 2];
    if attachments(serialization, body, &peek, &["group", "tag"], &mut values).is_ok() {
        values.iter().flatten().for_each(|value| drop(value.of(body).to_vec()));
    }
    if let Ok(argument) = first_argument(serialization, body, &peek) {
        let _ = argument.of(body);
    }
});
