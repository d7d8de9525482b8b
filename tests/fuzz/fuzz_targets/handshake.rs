//! A message of the session socket that was read is written as it was, and says how long it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_shm::handshake::Message;
use shmesh_shm::key::DubboKey;

fuzz_target!(|input: &[u8]| {
    if let Ok(Some((message, used))) = Message::decode(input) {
        assert!(used <= input.len());
        let mut written = Vec::new();
        message.encode(&mut written).expect("what was read can be written");
        assert_eq!(Message::decode(&written), Ok(Some((message, written.len()))));
        // One byte less is not a message yet.
        assert_eq!(Message::decode(&input[..used - 1]), Ok(None));
    }
    if let Ok(key) = DubboKey::decode(input) {
        let mut written = Vec::new();
        key.encode(&mut written);
        assert_eq!(DubboKey::decode(&written), Ok(key));
    }
});
