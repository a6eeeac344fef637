//! Questions on a terminal.

use std::io::{self, IsTerminal as _};

use super::exit::CliError;
use super::out::Out;
use super::stop::{Stop, blocking};

/// Somebody can read a question on stderr and answer it on stdin.
pub(crate) fn possible(out: Out) -> bool {
    out.terminal && !out.json && io::stdin().is_terminal()
}

/// Asks; only an explicit yes is one.
pub(crate) async fn yes(question: &str, out: Out, stop: &Stop) -> Result<bool, CliError> {
    let answer = line(&format!("{question} [y/N] "), out, stop).await?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a line.
pub(crate) async fn line(question: &str, out: Out, stop: &Stop) -> Result<String, CliError> {
    out.ask(question);
    let read = || {
        let mut text = String::new();
        io::stdin().read_line(&mut text).map(|_| text)
    };
    let text = stop.unless(blocking(read)).await??;
    text.map_err(|err| CliError::usage(format!("the answer cannot be read: {err}"), "give it on the command line"))
}
