//! Tests of the Dubbo2 codec.

mod hostile;
mod strings;
mod vectors;
mod walks;
mod words;
