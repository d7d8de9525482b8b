//! A head that was read leaves with framing of ours and nothing else changed: whoever reads it next reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmesh_proto::http1::{
    BodyKind, Framing, HeadLimits, RequestHead, RequestOut, ResponseHead, Status, TargetForm,
    write_request,
};

fuzz_target!(|input: &[u8]| {
    let limits = HeadLimits::default();
    let mut answer = ResponseHead::default();
    for to_head in [false, true] {
        if let Ok(Status::Complete) = answer.parse(input, &limits, to_head) {
            assert!(answer.len as usize <= input.len());
        }
    }
    let mut head = RequestHead::default();
    let Ok(Status::Complete) = head.parse(input, &limits) else { return };
    let len = head.len as usize;
    assert!(len <= input.len());
    // Less of it is not a head yet, and not another one.
    assert!(matches!(RequestHead::default().parse(&input[..len - 1], &limits), Ok(Status::Partial)));
    if head.form != TargetForm::Origin || head.authority.of(input).is_empty() {
        return;
    }
    for (framing, body) in [
        (Framing::None, BodyKind::None),
        (Framing::Length(5), BodyKind::Length(5)),
        (Framing::Chunked, BodyKind::Chunked),
    ] {
        let mut out = Vec::new();
        let how = RequestOut { framing, ..RequestOut::default() };
        write_request(&mut out, &head, input, &how);
        let mut again = RequestHead::default();
        // Longer by our own lines, it may be over a limit.
        let roomy = HeadLimits { head_bytes: u32::MAX, headers: 1 << 12, ..limits };
        assert!(matches!(again.parse(&out, &roomy), Ok(Status::Complete)), "{:?}", String::from_utf8_lossy(&out));
        assert_eq!((again.len as usize, again.body), (out.len(), body));
        assert_eq!(again.method.of(&out), head.method.of(input));
        assert_eq!(again.target.of(&out), head.target.of(input));
        assert_eq!(again.authority.of(&out), head.authority.of(input));
    }
});
