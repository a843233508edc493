//! The `weft` binary.

fn main() -> std::process::ExitCode {
    weft::command::main()
}
