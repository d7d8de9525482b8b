//! An HTTP/1.1 call: the request goes out on a thread of its own while the answer comes in, so that
//! a service may begin to answer before it has read everything.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use shmesh_proto::http1::{
    BodyKind, BodyReader, CHUNK_END, HeadLimits, ResponseHead, Status, chunk_line, write_last_chunk,
};

use super::Output;
use super::url::Url;
use crate::cli::CallArgs;
use crate::socket::Stream;

/// Bytes that are read from a file or a socket at a time.
const STEP_BYTES: usize = 64 * 1024;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: u32 = 256 * 1024;

/// A request, complete but for the framing of its body.
pub struct Request {
    pub method: String,
    pub authority: String,
    pub target: String,
    /// What the caller gave and what it leaves out, without Host and framing.
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// Where the body comes from.
pub enum Body {
    None,
    /// So many bytes.
    Sized(Box<dyn Read + Send>, u64),
    /// Until its end.
    Unsized(Box<dyn Read + Send>),
}

impl Request {
    /// # Errors
    /// A sentence about what is wrong with the arguments.
    pub fn from_args(args: &CallArgs, method: &str, url: &str) -> Result<Self, String> {
        if !is_token(method) {
            return Err(format!("`{method}` is not a method"));
        }
        let mut url = Url::parse(url)?;
        let mut headers = Vec::new();
        let mut chunked = false;
        for text in &args.headers {
            let (name, value) = parse_header(text)?;
            match name.to_ascii_lowercase().as_str() {
                "host" => url.authority = value.to_owned(),
                "content-length" => {
                    return Err("Content-Length is counted, not given: leave it out".to_owned());
                }
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => chunked = true,
                "transfer-encoding" => {
                    return Err(format!("`{text}`: only Transfer-Encoding: chunked can be sent"));
                }
                _ => headers.push((name.to_owned(), value.to_owned())),
            }
        }
        for (name, value) in [("User-Agent", concat!("shmesh/", env!("CARGO_PKG_VERSION"))), ("Accept", "*/*")] {
            if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        let body = match args.data.as_deref().map(open_body).transpose()? {
            Some(Body::Sized(reader, _)) if chunked => Body::Unsized(reader),
            Some(body) => body,
            None if chunked => Body::Unsized(Box::new(io::empty())),
            // Methods that are defined to carry a body say that there is none (RFC 9110 §8.6).
            None if matches!(method, "POST" | "PUT" | "PATCH") => Body::Sized(Box::new(io::empty()), 0),
            None => Body::None,
        };
        Ok(Self { method: method.to_owned(), authority: url.authority, target: url.target, headers, body })
    }

    /// The head as it goes over a stream.
    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.authority);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::None => {}
            Body::Sized(_, length) => head.push_str(&format!("Content-Length: {length}\r\n")),
            Body::Unsized(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head
    }
}

/// Makes the call over a byte stream and writes the answer's body to stdout; with `verbose` its
/// head to stderr. `reader` and `writer` are two handles to the same connection.
///
/// # Errors
/// A sentence; an answer of any status is none.
pub fn over_stream<S: Duplex>(reader: S, mut writer: S, request: Request, verbose: bool) -> Result<(), String> {
    let to_head = request.method == "HEAD";
    let (told, failure) = mpsc::channel();
    // Not joined: a service may answer without reading, and stdin may never end.
    thread::spawn(move || {
        if let Err(Upload::Source(sentence)) = send(&mut writer, request) {
            let _ = told.send(sentence);
            // A request that cannot be completed must not look complete.
            writer.cut();
        }
    });
    let received = receive(reader, to_head, verbose, &mut Output::open()?);
    match failure.try_recv() {
        Ok(sentence) => Err(sentence),
        Err(_) => received,
    }
}

/// A handle to a connection that another thread has a handle to as well.
pub trait Duplex: Read + Write + Send + 'static {
    /// Ends both directions for both handles, now.
    fn cut(&mut self);
}

impl Duplex for Stream {
    fn cut(&mut self) {
        // A connection that is gone is cut already.
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Duplex for shmesh_client::Stream {
    fn cut(&mut self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Why a request did not go out whole.
enum Upload {
    /// The body cannot be read.
    Source(String),
    /// The service takes no more: whether that matters is seen from its answer.
    Service,
}

fn send(stream: &mut impl Write, request: Request) -> Result<(), Upload> {
    let mut out = request.head().into_bytes();
    let (mut source, mut left, chunked) = match request.body {
        Body::None => (Box::new(io::empty()) as Box<dyn Read + Send>, 0, false),
        Body::Sized(source, length) => (source, length, false),
        Body::Unsized(source) => (source, u64::MAX, true),
    };
    let mut step = vec![0; STEP_BYTES];
    while left > 0 {
        let want = step.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = match source.read(&mut step[..want]) {
            Ok(0) if chunked => break,
            Ok(0) => {
                let lack = format!("the file became shorter while it was sent: {left} bytes lack");
                return Err(Upload::Source(lack));
            }
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Upload::Source(format!("cannot read the body: {error}"))),
        };
        left -= n as u64;
        if chunked {
            let (line, used) = chunk_line(n);
            out.extend_from_slice(&line[..used]);
        }
        out.extend_from_slice(&step[..n]);
        if chunked {
            out.extend_from_slice(CHUNK_END);
        }
        stream.write_all(&out).map_err(|_| Upload::Service)?;
        out.clear();
    }
    if chunked {
        write_last_chunk(&mut out, &[]);
    }
    stream.write_all(&out).map_err(|_| Upload::Service)
}

fn receive(mut stream: impl Read, to_head: bool, verbose: bool, output: &mut Output) -> Result<(), String> {
    let limits = HeadLimits { head_bytes: HEAD_BYTES_MAX, ..HeadLimits::default() };
    let mut head = ResponseHead::default();
    let mut buffer = Vec::with_capacity(STEP_BYTES);
    // Heads of 1xx answers come first, as many as there are.
    let mut reader = loop {
        match head.parse(&buffer, &limits, to_head) {
            Ok(Status::Partial) => {
                if read_more(&mut stream, &mut buffer)? == 0 {
                    return Err(match buffer.is_empty() {
                        true => "the connection was closed before an answer came".to_owned(),
                        false => "the connection was closed within the answer's head".to_owned(),
                    });
                }
            }
            Ok(Status::Complete) => {
                let text: Vec<u8> = buffer.drain(..head.len as usize).collect();
                if verbose {
                    eprint!("{}", String::from_utf8_lossy(&text).replace('\r', ""));
                }
                if head.upgrade {
                    break BodyReader::new(BodyKind::UntilClose);
                }
                if !head.is_interim() {
                    break BodyReader::new(head.body);
                }
            }
            Err(error) => return Err(format!("the answer is not HTTP/1.1: {error}")),
        }
    };
    let mut body_bytes = 0u64;
    let mut taken = 0;
    while !reader.is_done() {
        let rest = &buffer[taken..];
        let step = reader.read(rest).map_err(|error| format!("the answer's body is malformed: {error}"))?;
        output.write(&rest[step.data.clone()])?;
        body_bytes += step.data.len() as u64;
        taken += step.consumed;
        if step.consumed > 0 {
            continue;
        }
        buffer.drain(..taken);
        taken = 0;
        if read_more(&mut stream, &mut buffer)? == 0 {
            if reader.may_end_here() {
                break;
            }
            return Err(match head.body {
                BodyKind::Length(length) => {
                    format!("the connection was closed after {body_bytes} of {length} body bytes")
                }
                _ => format!("the connection was closed within the body, after {body_bytes} bytes"),
            });
        }
    }
    Ok(())
}

fn read_more(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Result<usize, String> {
    let from = buffer.len();
    buffer.resize(from + STEP_BYTES, 0);
    let n = loop {
        match stream.read(&mut buffer[from..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("the connection broke: {error}")),
            Ok(n) => break n,
        }
    };
    buffer.truncate(from + n);
    Ok(n)
}

/// `TEXT`, `@FILE` or `@-`.
fn open_body(data: &OsStr) -> Result<Body, String> {
    let Some(name) = data.as_bytes().strip_prefix(b"@") else {
        let text = data.as_bytes().to_vec();
        let length = text.len() as u64;
        return Ok(Body::Sized(Box::new(Cursor::new(text)), length));
    };
    if name == b"-" {
        return Ok(Body::Unsized(Box::new(io::stdin())));
    }
    let path = Path::new(OsStr::from_bytes(name));
    let wrong = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(wrong)?;
    let about = file.metadata().map_err(wrong)?;
    if about.is_dir() {
        return Err(format!("cannot read {}: it is a directory", path.display()));
    }
    Ok(match about.is_file() {
        true => Body::Sized(Box::new(file), about.len()),
        false => Body::Unsized(Box::new(file)),
    })
}

fn parse_header(text: &str) -> Result<(&str, &str), String> {
    let Some((name, value)) = text.split_once(':') else {
        return Err(format!("`{text}` is not a header: write -H 'Name: value'"));
    };
    if !is_token(name) {
        return Err(format!("`{name}` is not the name of a header"));
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(format!("the value of header `{name}` holds a control character"));
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
