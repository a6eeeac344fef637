//! The three names of a session in one parent directory: looking at them, and the moves between them.
//!
//! Shared by apply, rollback and recovery, so that there is one way to swap.

use std::os::fd::BorrowedFd;

use rustix::io::{self, Errno};

use super::durable;
use super::inode::{Identity, Inode};
use super::journal::{Method, Record};
use super::table::{Place, Seen};

/// What stands at the names of a session now.
pub(super) fn look(parent: BorrowedFd<'_>, record: &Record) -> io::Result<Seen> {
    Ok(Seen {
        target: place(Inode::at(parent, record.target_name())?, record),
        staging: place(Inode::at(parent, record.staging.as_str())?, record),
        aside: place(Inode::at(parent, record.aside().as_str())?, record),
        edited: false,
    })
}

fn place(inode: Option<Inode>, record: &Record) -> Place {
    let Some(inode) = inode else { return Place::Absent };
    let is = |identity: Option<Identity>| identity == Some(inode.identity());
    match inode.is_dir() {
        true if is(record.new) => Place::New,
        true if is(record.old) => Place::Old,
        _ => Place::Other,
    }
}

/// Brings the tree at the staging name to the target's name. With `standing`, the tree that is there goes to
/// the staging name (exchange) or aside (two renames); without, the name must be free.
pub(super) fn swap(parent: BorrowedFd<'_>, record: &Record, standing: bool) -> io::Result<()> {
    let (target, staging) = (record.target_name(), record.staging.as_str());
    match record.method {
        _ if !standing => durable::move_to_free(parent, staging, target),
        Method::Exchange => durable::exchange(parent, staging, target),
        Method::TwoRename => {
            let aside = record.aside();
            durable::move_to_free(parent, target, aside.as_str())?;
            durable::move_to_free(parent, staging, target).inspect_err(|_| {
                // what stood there goes back; if that fails too, recovery does it
                durable::move_to_free(parent, aside.as_str(), target).ok();
            })
        }
    }
}

/// Moves the target's tree to the free staging name: the way back when there was no target before.
pub(super) fn move_away(parent: BorrowedFd<'_>, record: &Record) -> io::Result<()> {
    durable::move_to_free(parent, record.target_name(), record.staging.as_str())
}

/// After two renames: the tree that stands aside takes the staging name, as after an exchange.
pub(super) fn tidy_aside(parent: BorrowedFd<'_>, record: &Record) -> io::Result<()> {
    let aside = record.aside();
    match Inode::at(parent, aside.as_str())? {
        None => Ok(()),
        Some(_) => {
            durable::move_to_free(parent, aside.as_str(), record.staging.as_str())?;
            durable::sync(parent)
        }
    }
}

/// The file system has no exchange, whatever the probe said.
pub(super) fn lacks_exchange(err: Errno) -> bool {
    matches!(err, Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
}
