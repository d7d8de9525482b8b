//! Tests of the Dubbo2 codec.

mod hostile;
mod oracle;
mod strings;
mod vectors;
mod walks;
mod words;
