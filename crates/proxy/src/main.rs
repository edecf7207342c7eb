//! Placeholder until the first real main.

fn main() {}
