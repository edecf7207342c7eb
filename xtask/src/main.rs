//! Every command that we run: `cargo xtask --help`.

fn main() {}
