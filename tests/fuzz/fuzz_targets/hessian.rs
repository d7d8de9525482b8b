//! The walk over a Dubbo request's arguments, in both serializations: it ends, and what it names lies in the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::dubbo::{PeekOutcome, attachments, first_argument, peek_request, serialization, service_version};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let serialization = if choice & 1 == 0 { serialization::HESSIAN2 } else { serialization::FASTJSON2 };
    let complete = choice & 2 == 0;
    let Ok(PeekOutcome::Done(peek)) = peek_request(serialization, body, complete) else { return };
    let _ = (peek.path.of(body), peek.method.of(body), service_version(&peek, body));
    if let Ok(values) = attachments(serialization, body, &peek, ["group", "tag"]) {
        values.iter().flatten().for_each(|value| drop(value.of(body).to_vec()));
    }
    if let Ok(argument) = first_argument(serialization, body, &peek) {
        let _ = argument.of(body);
    }
});
