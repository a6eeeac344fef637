//! `--post-apply` of the commands that import: a line that is parted into words here, and never read by a shell.

use std::time::Duration;

use me_sync_node::post_apply::{Choice, PostApply, PostApplyRefused};

use super::exit::CliError;
use super::globals::Globals;
use super::human;

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
            Choice::AsBefore => {
                let by_file = globals.file.post_apply(self.post_apply_timeout).map_err(|err| refused(&err))?;
                Ok(by_file.map_or(Choice::AsBefore, Choice::Run))
            }
            flag => Ok(flag),
        }
    }

    /// For one that goes on: the flag, or else what was said when it began.
    pub(crate) fn go_on(&self) -> Result<Choice, CliError> {
        let flag = self.flag()?;
        if self.post_apply_timeout.is_some() && flag == Choice::AsBefore {
            return Err(CliError::usage("--post-apply-timeout is for --post-apply CMD", "name the command too"));
        }
        Ok(flag)
    }

    fn flag(&self) -> Result<Choice, CliError> {
        let Some(line) = &self.post_apply else { return Ok(Choice::AsBefore) };
        if line.trim().is_empty() {
            return Ok(Choice::Nothing);
        }
        let here = std::env::current_dir().map_err(|err| {
            CliError::usage(format!("the current directory is gone: {err}"), "change to one that is there")
        })?;
        let timeout = self.post_apply_timeout.unwrap_or(PostApply::TIMEOUT);
        PostApply::parse(line, &here, timeout).map(Choice::Run).map_err(|err| refused(&err))
    }
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
