//! A Dubbo header that was read is written as it was; so is the extension header behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::dubbo::{
    Extension, ExtensionWriter, FrameHeader, HEADER_LEN, Said, event, read_reply, serialization,
};

const BODY_MAX: u32 = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = input.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(parsed) = FrameHeader::parse(header, BODY_MAX) else { return };
    assert!(parsed.body_len <= BODY_MAX);
    assert_eq!(FrameHeader::parse(&parsed.encode(), BODY_MAX), Ok(parsed));
    let body = &body[..body.len().min(parsed.body_len as usize)];
    if parsed.event {
        let _ = event(&parsed, body);
    } else if !parsed.request {
        let _ = read_reply(&parsed, body);
    } else if parsed.serialization == serialization::EXTENSION
        && let Ok((said, len)) = Extension::parse(body)
    {
        assert!(len <= body.len());
        let mut written = Vec::new();
        let mut writer = ExtensionWriter::new(&mut written, said.serialization, said.service, said.method);
        said.version.into_iter().for_each(|version| writer.version(version));
        said.group.into_iter().for_each(|group| writer.group(group));
        said.tag.into_iter().for_each(|tag| writer.tag(tag));
        match said.attachment("a") {
            Said::Nothing => {}
            Said::Absent => writer.attachment("a", None),
            Said::Is(text) => writer.attachment("a", Some(text)),
        }
        assert!(writer.finish());
        let (again, len) = Extension::parse(&written).expect("it was written here");
        assert_eq!(len, written.len());
        assert_eq!((again.service, again.method, again.version), (said.service, said.method, said.version));
        assert_eq!((again.group, again.tag, again.attachment("a")), (said.group, said.tag, said.attachment("a")));
    }
});
