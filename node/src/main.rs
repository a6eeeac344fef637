//! The `me-sync` command: reads the command line, runs it, and ends with its exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::main().code())
}
