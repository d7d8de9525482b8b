//! Tests of the Dubbo2 codec.

mod extension;
mod hostile;
mod oracle;
mod strings;
mod vectors;
mod walks;
mod words;
