//! The walkers end where an encoder ended, whatever the values are, and stop at their limits.

use proptest::prelude::*;

use super::vectors::done;
use crate::dubbo::cursor::Cursor;
use crate::dubbo::hessian;
use crate::dubbo::hessian_walker::Walker;
use crate::dubbo::serialization::{FASTJSON2, HESSIAN2};
use crate::dubbo::*;

/// A value of any kind that a Java program can send.
#[derive(Clone, Debug)]
enum Value {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    /// Payload behind one of the tags of doubles.
    Double(u8),
    Date(bool),
    Text(String),
    Bytes(Vec<u8>),
    /// An object seen before.
    Ref(u8),
    List {
        typed: bool,
        sized: bool,
        items: Vec<Value>,
    },
    Map {
        typed: bool,
        entries: Vec<(Value, Value)>,
    },
    /// An object of one of a few classes, which differ in their number of fields.
    Object(Vec<Value>),
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(Value::Int),
        (-0x900..0x900).prop_map(Value::Int),
        (-0x50000..0x50000).prop_map(Value::Int),
        any::<i64>().prop_map(Value::Long),
        (-0x900_i64..0x900).prop_map(Value::Long),
        (-0x50000_i64..0x50000).prop_map(Value::Long),
        (0_u8..6).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Date),
        "\\PC{0,40}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..1100).prop_map(Value::Bytes),
        any::<u8>().prop_map(Value::Ref),
    ];
    leaf.prop_recursive(6, 120, 12, |inner| {
        prop_oneof![
            (any::<bool>(), any::<bool>(), proptest::collection::vec(inner.clone(), 0..12))
                .prop_map(|(typed, sized, items)| Value::List { typed, sized, items }),
            (any::<bool>(), proptest::collection::vec((inner.clone(), inner.clone()), 0..6))
                .prop_map(|(typed, entries)| Value::Map { typed, entries }),
            proptest::collection::vec(inner, 0..20).prop_map(Value::Object),
        ]
    })
}

/// A small Hessian2 writer.
#[derive(Default)]
struct Encoder {
    out: Vec<u8>,
    /// Number of fields of each class that was defined.
    classes: Vec<usize>,
    types: usize,
}

impl Encoder {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.out.push(b'N'),
            Value::Bool(true) => self.out.push(b'T'),
            Value::Bool(false) => self.out.push(b'F'),
            Value::Int(int) => self.int(*int),
            Value::Long(long) => self.long(*long),
            Value::Double(kind) => self.out.extend(
                [
                    &b"\x5b"[..],
                    b"\x5c",
                    b"\x5d\x80",
                    b"\x5e\x80\x00",
                    b"\x5f\x00\x00\x30\x39",
                    b"D\x40\x28\x80\x00\x00\x00\x00\x00",
                ][usize::from(*kind)],
            ),
            Value::Date(true) => self.out.extend(b"\x4a\0\0\0\xd0\x4b\x92\x84\xb8"),
            Value::Date(false) => self.out.extend(b"\x4b\x00\xe3\x83\x8f"),
            Value::Text(text) => hessian::write_text(&mut self.out, text),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::Ref(index) => {
                self.out.push(b'Q');
                self.int((*index).into());
            }
            Value::List { typed, sized, items } => self.list(*typed, *sized, items),
            Value::Map { typed, entries } => {
                if *typed {
                    self.out.push(b'M');
                    self.type_name();
                } else {
                    self.out.push(b'H');
                }
                for (key, value) in entries {
                    self.value(key);
                    self.value(value);
                }
                self.out.push(b'Z');
            }
            Value::Object(fields) => self.object(fields),
        }
    }

    fn int(&mut self, int: i32) {
        match int {
            -0x10..=0x2f => self.out.push((0x90 + int) as u8),
            -0x800..=0x7ff => self.out.extend([(0xc8 + (int >> 8)) as u8, int as u8]),
            -0x40000..=0x3ffff => {
                self.out.extend([(0xd4 + (int >> 16)) as u8, (int >> 8) as u8, int as u8]);
            }
            _ => {
                self.out.push(b'I');
                self.out.extend(int.to_be_bytes());
            }
        }
    }

    fn long(&mut self, long: i64) {
        match long {
            -8..=15 => self.out.push((0xe0 + long) as u8),
            -0x800..=0x7ff => self.out.extend([(0xf8 + (long >> 8)) as u8, long as u8]),
            -0x40000..=0x3ffff => {
                self.out.extend([(0x3c + (long >> 16)) as u8, (long >> 8) as u8, long as u8]);
            }
            _ if i32::try_from(long).is_ok() => {
                self.out.push(0x59);
                self.out.extend((long as i32).to_be_bytes());
            }
            _ => {
                self.out.push(b'L');
                self.out.extend(long.to_be_bytes());
            }
        }
    }

    /// Chunks of 500 bytes, so that short values have chunks too.
    fn bytes(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((chunk, more)) = rest.split_at_checked(500)
            && !more.is_empty()
        {
            self.out.extend(b"A\x01\xf4");
            self.out.extend(chunk);
            rest = more;
        }
        match rest.len() {
            0..=15 => self.out.push(0x20 + rest.len() as u8),
            len if len % 2 == 0 => {
                self.out.extend([0x34 + (len >> 8) as u8, len as u8]);
            }
            len => self.out.extend([b'B', (len >> 8) as u8, len as u8]),
        }
        self.out.extend(rest);
    }

    /// A name first, then the number that it got.
    fn type_name(&mut self) {
        if self.types.is_multiple_of(3) {
            hessian::write_text(&mut self.out, "com.demo.类型");
        } else {
            self.int(0);
        }
        self.types += 1;
    }

    fn list(&mut self, typed: bool, sized: bool, items: &[Value]) {
        let len = items.len() as u8;
        match (typed, sized) {
            (true, true) if len <= 7 => {
                self.out.push(0x70 + len);
                self.type_name();
            }
            (true, true) => {
                self.out.push(b'V');
                self.type_name();
                self.int(len.into());
            }
            (false, true) if len <= 7 => self.out.push(0x78 + len),
            (false, true) => {
                self.out.push(0x58);
                self.int(len.into());
            }
            (true, false) => {
                self.out.push(0x55);
                self.type_name();
            }
            (false, false) => self.out.push(0x57),
        }
        for item in items {
            self.value(item);
        }
        if !sized {
            self.out.push(b'Z');
        }
    }

    fn object(&mut self, fields: &[Value]) {
        let known = self.classes.iter().position(|n| *n == fields.len());
        let class = known.unwrap_or_else(|| {
            self.out.push(b'C');
            hessian::write_text(&mut self.out, "com.demo.Pojo");
            self.int(fields.len() as i32);
            for index in 0..fields.len() {
                hessian::write_text(&mut self.out, &format!("field{index}"));
            }
            self.classes.push(fields.len());
            self.classes.len() - 1
        });
        if class < 16 {
            self.out.push(0x60 + class as u8);
        } else {
            self.out.push(b'O');
            self.int(class as i32);
        }
        for field in fields {
            self.value(field);
        }
    }
}

/// A request whose arguments are `arguments`, encoded by `encode`, all of type Object.
fn request(count: usize, front: &[u8], descriptor: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let mut body = front.to_vec();
    body.extend(descriptor(&"Ljava/lang/Object;".repeat(count)));
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_hessian_walker_ends_where_the_encoder_ended(
        arguments in proptest::collection::vec(values(), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut encoder = Encoder::default();
        let mut ends = Vec::new();
        for argument in &arguments {
            encoder.value(argument);
            ends.push(encoder.out.len() as u32);
        }
        let mut cursor = Cursor::new(&encoder.out, 0);
        let mut walker = Walker::new();
        for end in &ends {
            prop_assert_eq!(walker.skip(&mut cursor), Ok(()));
            prop_assert_eq!(cursor.at(), *end);
        }

        let mut body = request(arguments.len(), b"\x052.0.2\x01pN\x01m", |descriptor| {
            let mut out = Vec::new();
            hessian::write_text(&mut out, descriptor);
            out
        });
        body.extend(&encoder.out);
        // The map uses classes that the arguments defined, and says "group" twice: the last one counts.
        let object = arguments.iter().find(|value| matches!(value, Value::Object(_)));
        let mut map = Encoder { out: Vec::new(), ..encoder };
        map.out.extend(b"H\x05group\x01a\x01x");
        map.value(object.unwrap_or(&Value::Null));
        map.value(object.unwrap_or(&Value::Int(1)));
        map.out.extend(b"\x01y\x05group\x02g2Z");
        body.extend(&map.out);
        let peek = done(peek_request(HESSIAN2, &body, true));
        let group = attachment(HESSIAN2, &body, &peek, "group").unwrap().unwrap();
        prop_assert_eq!(group.of(&body), b"g2");

        let arguments_at = peek.arguments_at as usize;
        let cut = arguments_at + cut.index(body.len() - arguments_at);
        prop_assert!(attachment(HESSIAN2, &body[..cut], &peek, "group").is_err());
        if let Some(first) = arguments.first() {
            let span = first_argument(HESSIAN2, &body, &peek).unwrap();
            let mut alone = Encoder::default();
            alone.value(first);
            prop_assert_eq!(span.of(&body), alone.out);
        }
    }

    #[test]
    fn the_jsonb_walker_ends_where_the_encoder_ended(
        arguments in proptest::collection::vec(values(), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = Vec::new();
        for text in ["2.0.2", "p", "1.0.0", "m"] {
            jsonb::write_text_field(&mut body, text);
        }
        body = request(arguments.len(), &body, |descriptor| {
            let mut out = Vec::new();
            jsonb::write_text_field(&mut out, descriptor);
            out
        });
        for argument in &arguments {
            let mut document = Vec::new();
            encode_jsonb(&mut document, argument);
            let mut cursor = Cursor::new(&document, 0);
            prop_assert_eq!(jsonb_walker::skip(&mut cursor), Ok(()));
            prop_assert!(cursor.is_at_end());
            jsonb::write_field(&mut body, |out| out.extend(&document));
        }
        let end = body.len();
        jsonb::write_field(&mut body, |out| {
            out.extend(b"\xa6\x4egroup\x4aa");
            for argument in &arguments {
                out.extend(b"\x4aa");
                encode_jsonb(out, argument);
            }
            out.extend(b"\x4egroup\x4bg2\xa5");
        });
        let peek = done(peek_request(FASTJSON2, &body, true));
        let group = attachment(FASTJSON2, &body, &peek, "group").unwrap().unwrap();
        prop_assert_eq!(group.of(&body), b"g2");
        let cut = end + cut.index(body.len() - end);
        prop_assert!(attachment(FASTJSON2, &body[..cut], &peek, "group").is_err());
    }
}

/// A small JSONB writer; kinds that JSON lacks become the ones of fastjson2.
fn encode_jsonb(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xaf),
        Value::Bool(truth) => out.push(0xb0 + u8::from(*truth)),
        Value::Int(int) => jsonb::write_int(out, *int),
        Value::Long(long) => match *long {
            -8..=15 => out.push((0xe0 + long) as u8),
            -0x800..=0x7ff => out.extend([(0xd0 + (long >> 8)) as u8, *long as u8]),
            _ => {
                out.push(0xbe);
                out.extend(long.to_be_bytes());
            }
        },
        Value::Double(kind) => out.extend(
            [
                &b"\xb2"[..],
                b"\xb3",
                b"\xb4\xc8\x00",
                b"\xb5\x40\x28\x80\x00\x00\x00\x00\x00",
                b"\xb7\x40\x28\x80\x00",
                b"\xb9\x02\xbb\x03\x01\x02\x03",
            ][usize::from(*kind)],
        ),
        Value::Date(true) => out.extend(b"\xab\0\0\0\xd0\x4b\x92\x84\xb8"),
        Value::Date(false) => out.extend(b"\xaa\x07\xe9\x0b\x15\x03\x21\x00\x00\x4cUTC"),
        Value::Text(text) => jsonb::write_text(out, text),
        Value::Bytes(bytes) => {
            out.push(0x91);
            jsonb::write_int(out, bytes.len() as i32);
            out.extend(bytes);
        }
        Value::Ref(index) => {
            out.push(0x93);
            jsonb::write_text(out, &format!("$.{index}"));
        }
        Value::List { typed, items, .. } => {
            if *typed {
                out.extend(b"\x92\x4cabc\x00");
            }
            if items.len() <= 15 && !typed {
                out.push(0x94 + items.len() as u8);
            } else {
                out.push(0xa4);
                jsonb::write_int(out, items.len() as i32);
            }
            for item in items {
                encode_jsonb(out, item);
            }
        }
        Value::Map { typed, entries } => {
            if *typed {
                out.extend(b"\x92\x01");
            }
            out.push(0xa6);
            for (key, value) in entries {
                // What ends an object cannot be a key, and composite keys are written as text.
                match key {
                    Value::Int(_) | Value::Long(_) | Value::Text(_) => encode_jsonb(out, key),
                    _ => jsonb::write_text(out, "key"),
                }
                encode_jsonb(out, value);
            }
            out.push(0xa5);
        }
        Value::Object(fields) => {
            out.extend(b"\x92\x7f\x4cabc\x00\xa6");
            for (index, field) in fields.iter().enumerate() {
                match index {
                    0 => out.extend(b"\x7f\x4ename0\x01"),
                    1 => out.extend(b"\x7f\xff"),
                    _ => jsonb::write_text(out, "name"),
                }
                encode_jsonb(out, field);
            }
            out.push(0xa5);
        }
    }
}

fn walk(bytes: &[u8]) -> Result<u32, Flaw> {
    let mut cursor = Cursor::new(bytes, 0);
    Walker::new().skip(&mut cursor)?;
    Ok(cursor.at())
}

#[test]
fn the_depth_of_hessian_values_is_bounded() {
    // Lists of two, the first of which is a list of two, and so on.
    let nested = |depth: usize| {
        let mut bytes = vec![0x7a; depth];
        bytes.extend(vec![b'N'; depth + 1]);
        bytes
    };
    assert_eq!(walk(&nested(DEPTH_MAX)), Ok(2 * DEPTH_MAX as u32 + 1));
    assert!(matches!(walk(&nested(DEPTH_MAX + 1)), Err(Flaw::Depth { max: 256, .. })));
    for tag in [0x57, b'H', 0x7a] {
        let hostile = vec![tag; 8 << 20];
        assert!(matches!(walk(&hostile), Err(Flaw::Depth { .. })), "{tag}");
    }
}

#[test]
fn the_depth_of_jsonb_values_is_bounded() {
    let nested = |depth: usize| {
        let mut bytes = vec![0x96; depth];
        bytes.extend(vec![0xaf; depth + 1]);
        jsonb_walker::skip(&mut Cursor::new(&bytes, 0))
    };
    assert_eq!(nested(DEPTH_MAX), Ok(()));
    assert!(matches!(nested(DEPTH_MAX + 1), Err(Flaw::Depth { .. })));
    let hostile = vec![0xa6; 8 << 20];
    let walked = jsonb_walker::skip(&mut Cursor::new(&hostile, 0));
    assert!(matches!(walked, Err(Flaw::Depth { .. })));
}

#[test]
fn a_long_linked_list_is_not_deep() {
    let mut bytes = b"C\x04Node\x92\x05value\x04next".to_vec();
    for _ in 0..100_000 {
        bytes.extend(b"\x60\x91");
    }
    bytes.push(b'N');
    assert_eq!(walk(&bytes), Ok(bytes.len() as u32));
}

#[test]
fn class_definitions_are_bounded() {
    let define = |count: usize| {
        let mut bytes = b"C\x01c\x90".repeat(count);
        bytes.push(0x60);
        walk(&bytes)
    };
    assert!(define(CLASS_DEFS_MAX).is_ok());
    assert_eq!(define(CLASS_DEFS_MAX + 1), Err(Flaw::ClassDefs { max: CLASS_DEFS_MAX as u32 }));
    let fields = |count: u32| {
        let mut bytes = b"C\x01cI".to_vec();
        bytes.extend(count.to_be_bytes());
        bytes.extend(vec![0; count as usize]);
        bytes.push(0x60);
        bytes.extend(vec![b'N'; count as usize]);
        walk(&bytes)
    };
    assert!(fields(FIELDS_MAX).is_ok());
    assert!(matches!(fields(FIELDS_MAX + 1), Err(Flaw::Fields { .. })));
}

#[test]
fn malformed_hessian_values() {
    let tags: [&[u8]; 8] = [b"\x40", b"E", b"G", b"P", b"Z", b"HNZ", b"A\x00\x01xN", b"M\x91"];
    for bytes in tags {
        let walked = walk(bytes);
        let refused = matches!(walked, Err(Flaw::Tag { .. } | Flaw::End));
        assert!(refused, "{bytes:02x?}: {walked:?}");
    }
    assert_eq!(walk(b"\x60"), Err(Flaw::UnknownClass { at: 0, index: 0 }));
    assert_eq!(walk(b"O\x8f"), Err(Flaw::UnknownClass { at: 0, index: -1 }));
    assert_eq!(walk(b"C\x01c\x90\x61"), Err(Flaw::UnknownClass { at: 4, index: 1 }));
    // More items than there are bytes, fewer than none, and a reference that is no int.
    assert_eq!(walk(b"X\x94NNN"), Err(Flaw::End));
    assert_eq!(walk(b"XI\x7f\xff\xff\xff"), Err(Flaw::End));
    assert_eq!(walk(b"X\x8f"), Err(Flaw::Length { at: 1, len: -1 }));
    assert!(matches!(walk(b"QN"), Err(Flaw::Tag { at: 1, .. })));
}

#[test]
fn descriptors_say_how_many_arguments_lie_in_front_of_the_attachments() {
    let group = |descriptor: &str, arguments: &[u8]| {
        let mut body = b"\x052.0.2\x01p\x00\x01m".to_vec();
        hessian::write_text(&mut body, descriptor);
        body.extend(arguments);
        body.extend(b"H\x05group\x01gZ");
        let peek = done(peek_request(HESSIAN2, &body, true));
        attachment(HESSIAN2, &body, &peek, "group").map(|span| span.map(|span| span.of(&body).to_vec()))
    };
    let found = Ok(Some(b"g".to_vec()));
    for (descriptor, arguments) in [
        ("", &b""[..]),
        ("I", b"\x90"),
        ("[[I", b"N"),
        ("Ljava/lang/String;", b"N"),
        ("BCDFIJSZ", b"NNNNNNNN"),
        ("[BLjava/util/Map;[Lcom/demo/Pojo;J", b"\x21xHZx\xe0"),
        // A generic call: $invoke(String, String[], Object[])
        ("Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;", b"\x01m\x71\x07[string\x01s\x71\x07[object\x90"),
    ] {
        assert_eq!(group(descriptor, arguments), found, "{descriptor}");
    }
    for descriptor in ["V", "Ljava/lang/String", "[", "I[", "()V", "java.lang.String", "I "] {
        assert_eq!(group(descriptor, b"NNNN"), Err(SkipError::Descriptor));
    }
    let max = ARGUMENTS_MAX as usize;
    assert_eq!(group(&"I".repeat(max), &vec![0x90; max]), found);
    assert_eq!(
        group(&"I".repeat(max + 1), &vec![0x90; max + 1]),
        Err(SkipError::TooManyArguments { max: ARGUMENTS_MAX })
    );
}

#[test]
fn attachments_that_are_no_text_count_as_absent() {
    let group = |map: &[u8]| {
        let mut body = b"\x052.0.2\x01p\x00\x01m\x00".to_vec();
        body.extend(map);
        let peek = done(peek_request(HESSIAN2, &body, true));
        attachment(HESSIAN2, &body, &peek, "group").map(|span| span.map(|span| span.of(&body).to_vec()))
    };
    assert_eq!(group(b"N"), Ok(None));
    assert_eq!(group(b"HZ"), Ok(None));
    assert_eq!(group(b"H\x05groupNZ"), Ok(None));
    assert_eq!(group(b"H\x05group\x91Z"), Ok(None));
    assert_eq!(group(b"H\x05group\x01gNN\x05groupNZ"), Ok(None));
    assert_eq!(group(b"H\x91\x01x\x05group\x01gZ"), Ok(Some(b"g".to_vec())));
    assert_eq!(group(b"H\x05group\x00Z"), Ok(Some(Vec::new())));
    assert_eq!(group(b"\x01x"), Err(SkipError::Attachments { flaw: Flaw::Tag { at: 12, tag: 1, expected: "a map" } }));
    assert!(group(b"H\x05groupR\x00\x01a\x01bZ").is_err());
    assert!(group(b"HR\x00\x01g\x04roup\x01bZ").is_err());
}

#[test]
fn jsonb_attachments_cannot_hide_a_key_in_another_charset() {
    let group = |map: &[u8]| {
        let mut body = Vec::new();
        for text in ["2.0.2", "p", "0.0.0", "m", ""] {
            jsonb::write_text_field(&mut body, text);
        }
        jsonb::write_field(&mut body, |out| out.extend(map));
        let peek = done(peek_request(FASTJSON2, &body, true));
        assert_eq!(service_version(&peek, &body), None);
        attachment(FASTJSON2, &body, &peek, "group").map(|span| span.map(|span| span.of(&body).to_vec()))
    };
    let found = Ok(Some(b"g".to_vec()));
    assert_eq!(group(b"\xaf"), Ok(None));
    assert_eq!(group(b"\xa6\xa5"), Ok(None));
    assert_eq!(group(b"\xa6\x4egroup\x4ag\xa5"), found);
    assert_eq!(group(b"\x92\x4cMap\x00\xa6\x4egroup\x4ag\xa5"), found);
    assert_eq!(group(b"\xa6\x7c\x0ag\0r\0o\0u\0p\0\x4ag\xa5"), found);
    assert_eq!(group(b"\xa6\x7d\x0a\0g\0r\0o\0u\0p\x7a\x01g\xa5"), found);
    assert_eq!(group(b"\xa6\x7c\x0bg\0r\0o\0u\0p\0!\x4ag\xa5"), Ok(None));
    assert_eq!(group(b"\xa6\x7f\x4egroup\x01\x4ag\xa5"), found);
    assert_eq!(group(b"\xa6\x01\xa6\xa5\x4egroup\x4ag\xa5"), found);
    assert_eq!(group(b"\xa6\x4egroup\xaf\xa5"), Ok(None));
    assert!(group(b"\xa6\x4egroup\x7c\x02g\0\xa5").is_err(), "UTF-16 value");
    assert!(group(b"\xa6\x7f\x01\x4ag\xa5").is_err(), "key by number");
    assert!(group(b"\x95\x4ag").is_err(), "a list");
    assert!(group(b"\xa6\x4egroup\x4ag").is_err(), "no end");
}
