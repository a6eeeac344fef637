//! `me-sync completions`: a script for a shell, on stdout.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::exit::CliError;
use super::out::Out;

pub(crate) const EXAMPLES: &str = "\
Examples:
  me-sync completions bash > ~/.local/share/bash-completion/completions/me-sync
  me-sync completions fish > ~/.config/fish/completions/me-sync.fish";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args, out: Out) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "me-sync", &mut script);
    if out.json {
        out.success(serde_json::json!({ "script": String::from_utf8_lossy(&script) }));
        return Ok(());
    }
    let text = String::from_utf8_lossy(&script);
    out.essential(text.trim_end())
}
