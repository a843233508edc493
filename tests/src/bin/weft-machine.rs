//! The first process of a machine of a test cluster: `weft-machine DESCRIPTION`, see `weft_tests::cluster::machine`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [description] = &arguments[..] else {
        eprintln!("usage: weft-machine DESCRIPTION");
        return ExitCode::from(2);
    };
    match weft_tests::cluster::machine::boot(Path::new(description)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-machine: {error:#}");
            ExitCode::FAILURE
        }
    }
}
