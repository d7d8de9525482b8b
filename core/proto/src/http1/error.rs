//! Why a head or a body is refused. The message says what is wrong; the code goes into
//! `x-shmesh-reason` and the metrics.

use thiserror::Error;

/// Why a head is refused. After any of these the connection closes (RFC 9112 §9.6).
#[derive(Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadError {
    #[error("the method is not a token followed by one space")]
    BadMethod,
    #[error("the method is longer than any that is served")]
    MethodTooLong,
    #[error("the request target holds a byte that must be percent-encoded, or is empty")]
    BadTarget,
    #[error("the request target is in no form that its method takes")]
    BadTargetForm,
    #[error("the absolute request target has a scheme other than http")]
    UnsupportedScheme,
    #[error("the authority is not host or host:port")]
    BadAuthority,
    #[error("the request line has no HTTP version")]
    MissingVersion,
    #[error("the HTTP version is not of the form HTTP/1.1")]
    BadVersion,
    #[error("only HTTP/1.0 and HTTP/1.1 are served here")]
    UnsupportedVersion,
    #[error("HTTP/2 is not served on this listener yet: speak HTTP/1.1")]
    Http2PriorKnowledge,
    #[error("the status line has no three-digit status code")]
    BadStatusCode,
    #[error("the reason phrase holds a control byte")]
    BadReasonPhrase,
    #[error("the request or status line is longer than the limit")]
    StartLineTooLong,

    #[error("a line ends in LF without CR")]
    BareLf,
    #[error("a CR is not followed by LF")]
    BareCr,
    #[error("white space stands in front of the first header")]
    LeadingWhitespace,
    #[error("a header value is continued on the next line (obs-fold)")]
    ObsFold,
    #[error("white space stands between a header name and its colon")]
    SpaceBeforeColon,
    #[error("a header name is empty or holds a byte that is not of a token")]
    BadHeaderName,
    #[error("a header value holds a control byte")]
    BadHeaderValue,
    #[error("the head has more header lines than the limit")]
    TooManyHeaders,
    #[error("the head is longer than the limit")]
    HeadTooLarge,

    #[error("an HTTP/1.1 request has no Host")]
    MissingHost,
    #[error("there is more than one Host")]
    DuplicateHost,
    #[error("Host is not host or host:port")]
    BadHost,
    #[error("Content-Length is not one decimal number that fits in 63 bits")]
    BadContentLength,
    #[error("there is more than one Content-Length")]
    DuplicateContentLength,
    #[error("Transfer-Encoding and Content-Length are both there")]
    LengthAndTransferEncoding,
    #[error("Transfer-Encoding does not end in one chunked")]
    BadTransferEncoding,
    #[error("Transfer-Encoding names a coding other than chunked")]
    UnknownTransferCoding,
    #[error("Transfer-Encoding is there in an HTTP/1.0 message")]
    TransferEncodingInHttp10,
    #[error("Connection lists more options than the limit")]
    TooManyConnectionOptions,
    #[error("Max-Forwards of OPTIONS or TRACE is not one decimal number")]
    BadMaxForwards,
}

impl HeadError {
    /// Status of the answer when a request is refused. For a response it plays no part: there
    /// the proxy answers 502.
    pub fn status(&self) -> u16 {
        use HeadError::*;
        match self {
            StartLineTooLong => 414,
            TooManyHeaders | HeadTooLarge | TooManyConnectionOptions => 431,
            MethodTooLong | UnknownTransferCoding => 501,
            UnsupportedVersion | Http2PriorKnowledge => 505,
            _ => 400,
        }
    }

    /// Short code for `x-shmesh-reason` and for counters.
    pub fn reason(&self) -> &'static str {
        use HeadError::*;
        match self {
            BadMethod => "bad-method",
            MethodTooLong => "method-too-long",
            BadTarget => "bad-target",
            BadTargetForm => "bad-target-form",
            UnsupportedScheme => "unsupported-scheme",
            BadAuthority => "bad-authority",
            MissingVersion => "missing-version",
            BadVersion => "bad-version",
            UnsupportedVersion => "unsupported-version",
            Http2PriorKnowledge => "http2-prior-knowledge",
            BadStatusCode => "bad-status-code",
            BadReasonPhrase => "bad-reason-phrase",
            StartLineTooLong => "start-line-too-long",
            BareLf => "bare-lf",
            BareCr => "bare-cr",
            LeadingWhitespace => "leading-whitespace",
            ObsFold => "obs-fold",
            SpaceBeforeColon => "space-before-colon",
            BadHeaderName => "bad-header-name",
            BadHeaderValue => "bad-header-value",
            TooManyHeaders => "too-many-headers",
            HeadTooLarge => "head-too-large",
            MissingHost => "missing-host",
            DuplicateHost => "duplicate-host",
            BadHost => "bad-host",
            BadContentLength => "bad-content-length",
            DuplicateContentLength => "duplicate-content-length",
            LengthAndTransferEncoding => "length-and-transfer-encoding",
            BadTransferEncoding => "bad-transfer-encoding",
            UnknownTransferCoding => "unknown-transfer-coding",
            TransferEncodingInHttp10 => "transfer-encoding-in-http10",
            TooManyConnectionOptions => "too-many-connection-options",
            BadMaxForwards => "bad-max-forwards",
        }
    }
}

/// Why the framing of a body is refused. The message cannot be completed; the connection closes.
#[derive(Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    #[error("a chunk size is not made of hexadecimal digits")]
    BadChunkSize,
    #[error("a chunk size has more than 16 digits or does not fit in 63 bits")]
    ChunkSizeTooLarge,
    #[error("a chunk extension holds a control byte or does not start with a semicolon")]
    BadChunkExtension,
    #[error("a chunk size line is longer than the limit")]
    ChunkLineTooLong,
    #[error("a chunk's data does not end in CRLF where its size says")]
    BadChunkEnd,
    #[error("a line of the chunked framing ends in a CR or LF alone")]
    BadLineEnd,
    #[error("a trailer line is not name, colon, value")]
    BadTrailer,
    #[error("the trailers are longer than the limit")]
    TrailersTooLarge,
}

impl BodyError {
    /// Status of the answer when a request is refused, if no answer was begun yet.
    pub fn status(&self) -> u16 {
        match self {
            BodyError::TrailersTooLarge => 431,
            _ => 400,
        }
    }

    /// Short code for `x-shmesh-reason` and for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            BodyError::BadChunkSize => "bad-chunk-size",
            BodyError::ChunkSizeTooLarge => "chunk-size-too-large",
            BodyError::BadChunkExtension => "bad-chunk-extension",
            BodyError::ChunkLineTooLong => "chunk-line-too-long",
            BodyError::BadChunkEnd => "bad-chunk-end",
            BodyError::BadLineEnd => "bad-line-end",
            BodyError::BadTrailer => "bad-trailer",
            BodyError::TrailersTooLarge => "trailers-too-large",
        }
    }
}
