//! A neighbour that uses all the CPU time that it gets.

/// Computes until it is ended.
pub fn run() -> Result<(), String> {
    eprintln!("{}", super::UP);
    let mut state = 1u64;
    loop {
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        }
        std::hint::black_box(state);
    }
}
