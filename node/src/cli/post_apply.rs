//! `--post-apply` of the commands that import: a line that is parted into words here, and never read by a shell. Its program
//! is looked for before anything else is done: not after a tree has come over.

use std::path::PathBuf;
use std::time::Duration;

use me_sync_node::post_apply::{Choice, PostApply, PostApplyRefused};
use me_sync_node::refusal::Refusal;

use super::exit::CliError;
use super::globals::Globals;
use super::human;
use super::out::Out;

/// The flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PostApplyArgs {
    /// Run this once the tree is in place; if it fails, the old tree comes back.
    /// It is no shell: words and quotes count, nothing else does. '' for none
    #[arg(long, env = "ME_SYNC_POST_APPLY", hide_env_values = true, value_name = "CMD")]
    post_apply: Option<String>,
    /// How long it may take [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = human::parse_duration)]
    post_apply_timeout: Option<Duration>,
}

impl PostApplyArgs {
    /// For an import that begins: the flag, or else the settings.
    pub(crate) fn begin(&self, globals: &Globals) -> Result<Choice, CliError> {
        match self.flag()? {
            Choice::AsBefore => match self.of_file(globals)? {
                Some(command) => found(command).map(Choice::Run).map_err(|err| in_file(err, globals)),
                None => Ok(Choice::AsBefore),
            },
            flag => Ok(flag),
        }
    }

    /// For a node that stays. What the settings name may come to be there while it runs, and a node has other things to
    /// do: each import looks again.
    pub(crate) fn stay(&self, globals: &Globals, out: Out) -> Result<Option<PostApply>, CliError> {
        let by_file = match self.flag()? {
            Choice::AsBefore => self.of_file(globals)?,
            flag => return Ok(flag.or(None)),
        };
        if let Some(Err(err)) = by_file.clone().map(found) {
            out.warn(format_args!("{}; no tree can be received over HTTP until it can", err.message));
        }
        Ok(by_file)
    }

    /// For one that goes on: the flag, or else what was said when it began.
    pub(crate) fn go_on(&self) -> Result<Choice, CliError> {
        let flag = self.flag()?;
        if self.post_apply_timeout.is_some() && flag == Choice::AsBefore {
            return Err(CliError::usage("--post-apply-timeout is for --post-apply CMD", "name the command too"));
        }
        Ok(flag)
    }

    fn of_file(&self, globals: &Globals) -> Result<Option<PostApply>, CliError> {
        globals.file.post_apply(self.post_apply_timeout).map_err(|err| refused(&err))
    }

    fn flag(&self) -> Result<Choice, CliError> {
        let Some(line) = &self.post_apply else { return Ok(Choice::AsBefore) };
        if line.trim().is_empty() {
            return Ok(Choice::Nothing);
        }
        let timeout = self.post_apply_timeout.unwrap_or(PostApply::TIMEOUT);
        let command = PostApply::parse(line, &here()?, timeout).map_err(|err| refused(&err))?;
        found(command).map(Choice::Run)
    }
}

/// The same with its program looked for, as this command's own `PATH` says.
pub(crate) fn found(command: PostApply) -> Result<PostApply, CliError> {
    command.found(&here()?).map_err(|err| Refusal::from(err).into())
}

/// The same of a command that the settings name, which is where to mend it.
pub(crate) fn in_file(err: CliError, globals: &Globals) -> CliError {
    let file = globals.config_path().map_or_else(|_| "config.toml".to_owned(), |path| human::path(&path));
    let hint = format!("install it, or change post_apply in {file}; --post-apply '' runs nothing this time");
    CliError { hint, ..err }
}

fn here() -> Result<PathBuf, CliError> {
    std::env::current_dir()
        .map_err(|err| CliError::usage(format!("the current directory is gone: {err}"), "change to one that is there"))
}

/// As it is told to a node.
pub(crate) fn to_node(choice: &Choice) -> Option<PostApply> {
    match choice {
        Choice::AsBefore => None,
        Choice::Nothing => Some(PostApply::none()),
        Choice::Run(command) => Some(command.clone()),
    }
}

fn refused(err: &PostApplyRefused) -> CliError {
    CliError::usage(format!("--post-apply: {err}"), "for example --post-apply 'systemctl --user restart photos'")
}
