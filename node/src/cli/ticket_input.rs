//! Where a ticket comes from: best from anywhere but the argument list, which others on the machine can read.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use me_sync_node::refusal::Refusal;
use me_sync_protocol::archive::ArchiveTicket;
use me_sync_protocol::code::{Code, CodeRefused};
use me_sync_protocol::limits::MAX_TICKET;
use me_sync_protocol::reason;
use me_sync_protocol::ticket::{FAMILY, Ticket};

use super::exit::CliError;
use super::out::Out;
use super::stop::{Stop, blocking};
use super::{human, prompt};

const TICKET_VARIABLE: &str = "ME_SYNC_TICKET";

/// Decided before anything is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TicketSource {
    Argument(String),
    File(PathBuf),
    Variable(String),
    Stdin,
    Prompt,
}

impl TicketSource {
    pub(crate) fn choose(argument: Option<&str>, file: Option<&Path>, out: Out) -> Result<Self, CliError> {
        Ok(match (argument, file) {
            (Some("-"), None) => Self::Stdin,
            (Some(text), None) => Self::Argument(text.to_owned()),
            (None, Some(path)) if path == Path::new("-") => Self::Stdin,
            (None, Some(path)) => Self::File(path.to_owned()),
            (Some(_), Some(_)) => {
                return Err(CliError::usage("a ticket and --ticket-file were both given", "give one of them"));
            }
            (None, None) => match std::env::var(TICKET_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => Self::Variable(text),
                _ if !io::stdin().is_terminal() => Self::Stdin,
                _ if prompt::possible(out) => Self::Prompt,
                _ => {
                    let hint = "use --ticket-file FILE, ME_SYNC_TICKET, or pipe it into stdin";
                    return Err(CliError::usage("no ticket was given", hint));
                }
            },
        })
    }

    pub(crate) async fn read(self, out: Out, stop: &Stop) -> Result<Invitation, CliError> {
        let text = match self {
            // a code is spoken aloud, and good once
            Self::Argument(text) if Code::parse(&text).is_ok() => text,
            Self::Argument(text) => {
                out.say("note: other users of this machine can see a ticket on the command line (--ticket-file -)");
                text
            }
            Self::Variable(text) => text,
            Self::File(path) => {
                let name = human::path(&path);
                let read = stop.unless(blocking(move || File::open(path).and_then(bounded))).await??;
                read.map_err(|err| {
                    CliError::usage(format!("the ticket file {name} cannot be read: {err}"), "check its path")
                })?
            }
            Self::Stdin => {
                let read = stop.unless(blocking(|| bounded(io::stdin()))).await??;
                read.map_err(|err| {
                    CliError::usage(format!("the ticket cannot be read from stdin: {err}"), "pipe it in")
                })?
            }
            Self::Prompt => prompt::line("Ticket or code: ", out, stop).await?,
        };
        if text.trim().is_empty() {
            return Err(CliError::usage("the ticket is empty", "copy the line that `me-sync send` printed"));
        }
        Invitation::parse(&text)
    }
}

/// What the other device shows.
#[derive(Debug, Clone)]
pub(crate) enum Invitation {
    Ticket(Box<Ticket>),
    /// Of an archive (v3).
    Archive(Box<ArchiveTicket>),
    Code(Code),
}

impl Invitation {
    fn parse(text: &str) -> Result<Self, CliError> {
        if ArchiveTicket::is_one(text) {
            return Ok(Self::Archive(Box::new(ArchiveTicket::parse(text)?)));
        }
        if text.trim_start().starts_with(FAMILY) {
            return Ok(Self::Ticket(Box::new(Ticket::parse(text)?)));
        }
        match Code::parse(text) {
            Ok(code) => Ok(Self::Code(code)),
            Err(CodeRefused::NotACode) => Err(CliError::usage(
                "this is neither a ticket nor a code, such as 7-velvet-harbor",
                "type or copy what `me-sync send` shows on the other device",
            )),
            Err(err) => Err(err.into()),
        }
    }

    /// May what this stands for come by a protocol that both sides have, and that is wanted here?
    ///
    /// # Errors
    /// No: what each side has.
    // SPEC §13.1
    pub(crate) fn check_protocol(&self, only_v3: bool, require_v4: bool) -> Result<(), CliError> {
        match self {
            Self::Archive(ticket) if require_v4 => Err(Refusal::archive_refused(ticket).into()),
            Self::Ticket(_) | Self::Code(_) if only_v3 => Err(CliError::coded(
                reason::Code::VersionMismatch,
                "this is for v4, which the other device has; this one has v3 (archives) only",
                "make a ticket there with `me-sync send --archive`",
            )),
            Self::Archive(_) | Self::Ticket(_) | Self::Code(_) => Ok(()),
        }
    }
}

/// A line of a ticket's size at most: the writer of a pipe need not close it, and a wrong file may be endless.
fn bounded(from: impl Read) -> io::Result<String> {
    let mut raw = Vec::new();
    for byte in io::BufReader::new(from).take(MAX_TICKET as u64 + 1024).bytes() {
        match byte? {
            b'\n' if !raw.trim_ascii().is_empty() => break,
            byte => raw.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&raw).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read_and_no_endless_file() {
        assert_eq!(bounded(&b"\n\n abc \nrest"[..]).unwrap().trim(), "abc");
        assert!(bounded(io::repeat(b'x')).unwrap().len() <= MAX_TICKET + 1024);
    }
}
