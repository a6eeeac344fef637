//! A command as a person writes it: words, as a shell would part them, but no shell reads them.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use me_sync_protocol::escape::escaped;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::find::find;
use super::place;

/// A command that runs once a new tree is in place. Unless it ends with exit code 0 in time, the old tree comes back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, ToSchema)]
#[cbor(map)]
#[serde(deny_unknown_fields)]
pub struct PostApply {
    /// The program and its arguments.
    #[n(0)]
    argv: Vec<String>,
    /// Seconds that it may take.
    #[n(1)]
    timeout_secs: u32,
}

/// What an import is to run after its swap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// What was said when its session began; nothing for a new one.
    #[default]
    AsBefore,
    /// Nothing.
    Nothing,
    /// This.
    Run(PostApply),
}

impl Choice {
    /// What that comes to for a session that began with `before`.
    pub fn or(self, before: Option<&PostApply>) -> Option<PostApply> {
        match self {
            Self::AsBefore => before.cloned(),
            Self::Nothing => None,
            Self::Run(command) => Some(command),
        }
    }
}

/// That is no command, or none that can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostApplyRefused {
    /// A quote is open, or a backslash stands at the end.
    #[error("a quote in the command is not closed")]
    Quote,
    /// There is no program.
    #[error("the command names no program")]
    Empty,
    /// No program can be given that.
    #[error("a word of the command holds a zero byte")]
    Zero,
    /// It has a directory in it, and does not begin with `/`.
    #[error("the program is a path that does not begin with /")]
    Relative,
    /// No time, or more than an hour.
    #[error("the command may take 1 second to 1 hour")]
    Timeout,
    /// No place that names are looked for in has such a program.
    #[error("there is no program {} in PATH", escaped(.program))]
    NotInPath {
        /// Its name.
        program: String,
    },
    /// There is nothing at its path.
    #[error("there is no program {}", escaped(.program))]
    Missing {
        /// Its path.
        program: String,
    },
    /// What is there is no program for this user.
    #[error("{} {why}", escaped(.program))]
    Barred {
        /// Its path.
        program: String,
        /// What is wrong about it.
        why: &'static str,
    },
}

impl PostApplyRefused {
    /// The words are right; the program that they name is not there, or may not be run.
    pub fn is_of_program(&self) -> bool {
        match self {
            Self::NotInPath { .. } | Self::Missing { .. } | Self::Barred { .. } => true,
            Self::Quote | Self::Empty | Self::Zero | Self::Relative | Self::Timeout => false,
        }
    }
}

impl PostApply {
    /// How long a command may take unless somebody says otherwise: 60 s.
    pub const TIMEOUT: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(3600);

    /// A command of these words. The program is a name that is looked for in `PATH`, or an absolute path.
    ///
    /// # Errors
    /// See [`PostApplyRefused`].
    pub fn new(argv: Vec<String>, timeout: Duration) -> Result<Self, PostApplyRefused> {
        let program = argv.first().filter(|program| !program.is_empty()).ok_or(PostApplyRefused::Empty)?;
        if argv.iter().any(|word| word.contains('\0')) {
            return Err(PostApplyRefused::Zero);
        }
        if program.starts_with('-') {
            return Err(PostApplyRefused::Empty);
        }
        if program.contains('/') && !Path::new(program).is_absolute() {
            return Err(PostApplyRefused::Relative);
        }
        let secs = timeout.as_millis().div_ceil(1000);
        let timeout_secs = u32::try_from(secs).ok().filter(|_| !timeout.is_zero() && timeout <= Self::LONGEST);
        Ok(Self { argv, timeout_secs: timeout_secs.ok_or(PostApplyRefused::Timeout)? })
    }

    /// The same of one line. A program with a directory in it is looked for from `here`.
    ///
    /// # Errors
    /// See [`PostApplyRefused`].
    pub fn parse(line: &str, here: &Path, timeout: Duration) -> Result<Self, PostApplyRefused> {
        let mut argv = shlex::split(line).ok_or(PostApplyRefused::Quote)?;
        if let Some(program) = argv.first_mut().filter(|program| program.contains('/')) {
            *program = here.join(&*program).to_str().ok_or(PostApplyRefused::Relative)?.to_owned();
        }
        Self::new(argv, timeout)
    }

    /// The same, after it came from a record or another process.
    ///
    /// # Errors
    /// See [`PostApplyRefused`].
    pub fn checked(self) -> Result<Self, PostApplyRefused> {
        let timeout = self.timeout();
        Self::new(self.argv, timeout)
    }

    /// The same with its program found: a name becomes the path that `PATH` of this process leads to, so that what was looked
    /// at is what runs, whichever process runs it. Blocking, for a few looks at the disk.
    ///
    /// # Errors
    /// The program is not there, or this user may not run it.
    pub fn found(mut self, here: &Path) -> Result<Self, PostApplyRefused> {
        let places = std::env::var_os("PATH");
        if let Some(program) = self.argv.first_mut() {
            let path = find(program, places.as_deref(), here)?;
            // a path that is no text cannot be written down; its name can
            if let Some(path) = path.to_str() {
                path.clone_into(program);
            }
        }
        Ok(self)
    }

    /// Can it be started where it will run, in the directory that holds `target`? Blocking, for a few looks at the disk.
    ///
    /// # Errors
    /// The program is not there, or this user may not run it.
    pub fn look_beside(&self, target: &Path) -> Result<(), PostApplyRefused> {
        let places = std::env::var_os("PATH");
        self.argv.first().map_or(Ok(()), |program| find(program, places.as_deref(), place(target)).map(drop))
    }

    /// No command: for a program that says so to another.
    pub fn none() -> Self {
        Self { argv: Vec::new(), timeout_secs: 1 }
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    /// How long it may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs.into())
    }
}

/// The program's name: its arguments may hold what is nobody else's business.
impl fmt::Display for PostApply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.argv.first().map(String::as_str).unwrap_or_default();
        write!(f, "{}", escaped(program))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<String>, PostApplyRefused> {
        PostApply::parse(line, Path::new("/here"), PostApply::TIMEOUT).map(|command| command.argv)
    }

    #[test]
    fn a_line_is_parted_into_words_and_nothing_in_it_is_for_a_shell() {
        assert_eq!(parse("a 'b c' \"d\"\\ e $HOME;rm").unwrap(), ["a", "b c", "d e", "$HOME;rm"]);
        assert_eq!(parse("./reload --now").unwrap(), ["/here/./reload", "--now"]);
        assert_eq!(parse("/bin/true").unwrap(), ["/bin/true"]);
        assert_eq!(parse("a 'b"), Err(PostApplyRefused::Quote));
        for nothing in ["", "  ", "''", "-c x"] {
            assert_eq!(parse(nothing), Err(PostApplyRefused::Empty), "{nothing:?}");
        }
    }

    #[test]
    fn what_no_process_can_be_is_refused() {
        let new = |words: &[&str], secs| {
            PostApply::new(words.iter().map(|word| (*word).to_owned()).collect(), Duration::from_secs(secs))
        };
        assert_eq!(new(&["a\0"], 1), Err(PostApplyRefused::Zero));
        assert_eq!(new(&["bin/a"], 1), Err(PostApplyRefused::Relative));
        assert_eq!(
            (new(&["a"], 0), new(&["a"], 3601)),
            (Err(PostApplyRefused::Timeout), Err(PostApplyRefused::Timeout))
        );
        assert_eq!(new(&["a", "b"], 3600).unwrap().timeout().as_secs(), 3600);
    }
}
