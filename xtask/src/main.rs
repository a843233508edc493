//! Set-up, build, test, demo, benchmark and lint of Weft.
fn main() {}
