//! What can be wrong with a body's bytes.

/// What is wrong with encoded bytes; offsets are in bytes from the start of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it runs past its end")]
    End,
    #[error("the byte {tag:#04x} at {at} does not start {expected}")]
    Tag { at: u32, tag: u8, expected: &'static str },
    #[error("the text at {at} is not well-formed in the encoding that its tag names")]
    Text { at: u32 },
    #[error("the text at {at} is cut into chunks, which no writer does with short text")]
    Chunked { at: u32 },
    #[error("the text at {at} is neither ASCII nor UTF-8, so it cannot be compared")]
    Charset { at: u32 },
    #[error("the length {len} at {at} is negative")]
    Length { at: u32, len: i64 },
    #[error("the field at {at} holds more bytes than its value")]
    Surplus { at: u32 },
    #[error("the field at {at} is shorter than its value")]
    Short { at: u32 },
    #[error("values are nested more than {max} deep at {at}")]
    Depth { at: u32, max: u32 },
    #[error("there are more than {max} class definitions")]
    ClassDefs { max: u32 },
    #[error("the class definition at {at} has {fields} fields, the limit is {max}")]
    Fields { at: u32, fields: u32, max: u32 },
    #[error("the object at {at} is of class {index}, which was not defined")]
    UnknownClass { at: u32, index: i32 },
}

/// Why the strings in front of a request body could not be read: the request is answered with status 40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    #[error(
        "shmesh does not read serialization {0} (it reads hessian2 2, java 3, 4 and 7, kryo 8, fst 9, protostuff 12, \
         fastjson2 23)"
    )]
    UnknownSerialization(u8),
    #[error("the {field} of the request is malformed: {flaw}")]
    Field { field: &'static str, flaw: Flaw },
    #[error("the {field} of the request is null")]
    Null { field: &'static str },
    #[error("the strings in front of the arguments take more than {max} bytes")]
    TooLong { max: u32 },
}

/// Why arguments or attachments could not be walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipError {
    #[error("shmesh does not walk over arguments in serialization {0} (it does in hessian2, 2, and fastjson2, 23)")]
    UnknownSerialization(u8),
    #[error("the parameter descriptor is not a list of JVM types")]
    Descriptor,
    #[error("the parameter descriptor names more than {max} types")]
    TooManyArguments { max: u32 },
    #[error("the request has no argument")]
    NoArgument,
    #[error("argument {index} is malformed: {flaw}")]
    Argument { index: u32, flaw: Flaw },
    #[error("the attachments are malformed: {flaw}")]
    Attachments { flaw: Flaw },
}

/// Why a response could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the frame is a request or an event, not the answer to a call")]
    NotAnAnswer,
    #[error("shmesh does not read serialization {0} (it reads 2, hessian2, and 23, fastjson2)")]
    UnknownSerialization(u8),
    #[error("the response says {0}, which is no kind of result")]
    ResultKind(i32),
    #[error("the response is malformed: {0}")]
    Malformed(#[from] Flaw),
}
