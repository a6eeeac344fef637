//! Which files are being written and which were begun and put aside. Decides who may open what.
//!
//! One entry is open at most once: a late lane of a lost connection must not meet a new one at the same name.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use me_sync_protocol::ids::EntryIndex;

use super::error::StageError;
use super::stamp::FileStamp;

/// Shared by the writers of all lanes; taken twice a file, for a moment.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    sealed: bool,
    open: HashSet<EntryIndex>,
    /// How a file looked when it was put aside.
    aside: HashMap<EntryIndex, FileStamp>,
}

impl Slots {
    fn table(&self) -> MutexGuard<'_, Table> {
        // every change is one insert or remove: a panic elsewhere cannot leave it half done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to write an entry; what was put aside of it, if anything, goes with it.
    pub(super) fn open(&self, index: EntryIndex) -> Result<Option<FileStamp>, StageError> {
        let mut table = self.table();
        if table.sealed {
            return Err(StageError::Sealed);
        }
        if !table.open.insert(index) {
            return Err(StageError::Open { index: index.0 });
        }
        Ok(table.aside.remove(&index))
    }

    /// The entry is not being written any more.
    pub(super) fn close(&self, index: EntryIndex) {
        self.table().open.remove(&index);
    }

    /// A file was begun and looks like this.
    pub(super) fn put_aside(&self, index: EntryIndex, stamp: FileStamp) {
        self.table().aside.insert(index, stamp);
    }

    /// The entry was begun and put aside.
    pub(super) fn is_aside(&self, index: EntryIndex) -> bool {
        self.table().aside.contains_key(&index)
    }

    /// Nobody opens anything from now on.
    ///
    /// # Errors
    /// Files are still open.
    pub(super) fn seal(&self) -> Result<(), StageError> {
        let mut table = self.table();
        table.sealed = true;
        match table.open.len() {
            0 => Ok(()),
            open => Err(StageError::StillWriting { open }),
        }
    }
}
