//! Tests of the Dubbo2 codec.

mod hostile;
mod vectors;
mod walks;
mod words;
