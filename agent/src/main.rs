//! The `weft` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft::footprint::spare();
    weft::command::main()
}
