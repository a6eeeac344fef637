//! What a node remembers of its sessions, in `<state>/sessions.redb`: one record per import and export with its
//! secrets, which received files are durable, which failed and why, and the ports it listened on.
//!
//! Owns that file. Refuses: a file that is damaged, torn, foreign, open to others or of a newer version; it is named
//! and stays where it is, and nothing in it is guessed at. Every page is checked when it is opened, and every write is one transaction
//! that is on the disk when the call returns, so a crash leaves all of it or nothing.
//!
//! [`Store`] blocks; a running node drives it through [`StoreHandle`], whose one thread keeps the order of the calls.

mod actor;
mod codec;
mod durable;
pub(crate) mod error;
pub(crate) mod file;
mod record;
mod sweep;

use std::fmt;
use std::path::{Path, PathBuf};

use me_sync_protocol::ids::{EntryIndex, SessionId, TicketId};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use zeroize::Zeroizing;

pub use crate::clock::LastSeen;
pub use actor::{Pending, StoreHandle, Write};
pub use error::StoreError;
pub use record::{
    ExportRecord, FailureRecord, Grant, ImportRecord, ListenPort, SessionStatus, SourceChoices, TargetChoices,
    TicketText,
};
pub use sweep::{KEEP_ENDED, Swept};

use error::Fault;
use file::Opened;

/// Name of the file in the state directory.
pub const STORE_FILE: &str = "sessions.redb";
/// Version of its tables and records; a change that older versions cannot read raises it.
const SCHEMA: u32 = 1;
/// Pages kept in memory, in bytes. The file of a million durable entries has 16 MiB.
const CACHE: usize = 16 << 20;
/// Failed files on record per session; more would be of no use to anybody.
pub const MAX_FAILURES: usize = 10_000;

type Id = &'static [u8; 16];
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const IMPORTS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("imports");
const EXPORTS: TableDefinition<'_, Id, &[u8]> = TableDefinition::new("exports");
/// By session and block of entries.
const DURABLE: TableDefinition<'_, (Id, u32), &[u8]> = TableDefinition::new("durable");
/// By session and entry.
const FAILURES: TableDefinition<'_, (Id, u32), &[u8]> = TableDefinition::new("failures");
const META_SCHEMA: &str = "schema";
const META_PORTS: &str = "ports";

/// The open session store. One process has it at a time. Every call blocks on the disk.
pub struct Store {
    db: Database,
    path: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of a state directory and checks all of it; makes directory (0700) and file (0600) when there
    /// are none yet.
    ///
    /// # Errors
    /// Another process has it; it is damaged, foreign, open to others or of a newer version; reading or writing
    /// failed. A file that is refused stays where it is.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let Opened { db, path } = file::open(state_dir, STORE_FILE, CACHE, lay_out, check)?;
        Ok(Self { db, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an import, over an earlier state of it. One that has come to its end needs no durable entries any
    /// more: they are dropped.
    ///
    /// # Errors
    /// Writing failed; nothing of it is stored.
    pub fn put_import(&self, record: &ImportRecord) -> Result<(), StoreError> {
        self.write(|txn| put_import(txn, record))
    }

    /// The import of that session.
    ///
    /// # Errors
    /// Reading failed.
    pub fn import(&self, session: SessionId) -> Result<Option<ImportRecord>, StoreError> {
        self.one(IMPORTS, session.as_bytes())
    }

    /// All imports, the oldest first.
    ///
    /// # Errors
    /// Reading failed.
    pub fn imports(&self) -> Result<Vec<ImportRecord>, StoreError> {
        let mut all: Vec<ImportRecord> = self.all(IMPORTS)?;
        all.sort_by_key(|record| (record.created.wall_ms, record.session));
        Ok(all)
    }

    /// Forgets an import with its durable and failed entries. One that is not there is no error.
    ///
    /// # Errors
    /// Writing failed; nothing is forgotten.
    pub fn remove_import(&self, session: SessionId) -> Result<(), StoreError> {
        self.write(|txn| remove_import(txn, session))
    }

    /// Writes an export, over an earlier state of it.
    ///
    /// # Errors
    /// Writing failed; nothing of it is stored.
    pub fn put_export(&self, record: &ExportRecord) -> Result<(), StoreError> {
        self.write(|txn| put_export(txn, record))
    }

    /// The export of that ticket.
    ///
    /// # Errors
    /// Reading failed.
    pub fn export(&self, ticket: TicketId) -> Result<Option<ExportRecord>, StoreError> {
        self.one(EXPORTS, ticket.as_bytes())
    }

    /// The export of that session.
    ///
    /// # Errors
    /// Reading failed.
    pub fn export_of(&self, session: SessionId) -> Result<Option<ExportRecord>, StoreError> {
        let has = |record: &ExportRecord| record.grant.as_ref().is_some_and(|grant| grant.session == session);
        Ok(self.exports()?.into_iter().find(has))
    }

    /// All exports, the oldest first.
    ///
    /// # Errors
    /// Reading failed.
    pub fn exports(&self) -> Result<Vec<ExportRecord>, StoreError> {
        let mut all: Vec<ExportRecord> = self.all(EXPORTS)?;
        all.sort_by_key(|record| (record.created.wall_ms, record.ticket));
        Ok(all)
    }

    /// Forgets an export with its failed entries. One that is not there is no error.
    ///
    /// # Errors
    /// Writing failed; nothing is forgotten.
    pub fn remove_export(&self, ticket: TicketId) -> Result<(), StoreError> {
        self.write(|txn| remove_export(txn, ticket))
    }

    /// Records that these entries are on the disk, each with the stamp its file had. Over earlier stamps.
    ///
    /// # Errors
    /// Writing failed; none of them is recorded.
    pub fn mark_durable(&self, session: SessionId, entries: &[(EntryIndex, [u8; 16])]) -> Result<(), StoreError> {
        self.write(|txn| durable::mark(txn, session, entries))
    }

    /// Every durable entry of a session with its stamp, in order.
    ///
    /// # Errors
    /// Reading failed.
    pub fn durable(&self, session: SessionId) -> Result<Vec<(EntryIndex, [u8; 16])>, StoreError> {
        self.read(|txn| durable::load(&txn.open_table(DURABLE)?, session))
    }

    /// These entries are not durable any more. Others than recorded ones are no error.
    ///
    /// # Errors
    /// Writing failed; all are durable still.
    pub fn forget_durable(&self, session: SessionId, entries: &[EntryIndex]) -> Result<(), StoreError> {
        self.write(|txn| durable::forget(txn, session, entries))
    }

    /// Records which files of a session failed, in place of what was recorded before. Only the first
    /// [`MAX_FAILURES`] are kept.
    ///
    /// # Errors
    /// Writing failed; the earlier list stands.
    pub fn put_failures(&self, session: SessionId, failures: &[FailureRecord]) -> Result<(), StoreError> {
        self.write(|txn| put_failures(txn, session, failures))
    }

    /// The failed files of a session, in the order of the manifest.
    ///
    /// # Errors
    /// Reading failed.
    pub fn failures(&self, session: SessionId) -> Result<Vec<FailureRecord>, StoreError> {
        self.read(|txn| {
            let table = txn.open_table(FAILURES)?;
            let id = session.as_bytes();
            let mut all = Vec::new();
            for row in table.range((id, 0)..=(id, u32::MAX))? {
                all.push(decode(row?.1.value())?);
            }
            Ok(all)
        })
    }

    /// Remembers where this node listens, so that it does so again after a restart: its tickets say so.
    ///
    /// # Errors
    /// Writing failed; the earlier list stands.
    pub fn put_ports(&self, ports: &[ListenPort]) -> Result<(), StoreError> {
        self.write(|txn| put_ports(txn, ports))
    }

    /// Where the node listened last.
    ///
    /// # Errors
    /// Reading failed.
    pub fn ports(&self) -> Result<Vec<ListenPort>, StoreError> {
        self.read(|txn| match txn.open_table(META)?.get(META_PORTS)? {
            Some(row) => decode(row.value()),
            None => Ok(Vec::new()),
        })
    }

    /// Closes the file, so that the next open finds it tidy. Dropping does the same without telling what failed.
    ///
    /// # Errors
    /// Writing failed; everything stored before is safe all the same.
    pub fn close(self) -> Result<(), StoreError> {
        let Self { db, path } = self;
        db.close().map_err(|e| Fault::from(e).at(&path))
    }

    /// One transaction: all of it is on the disk when this returns, or nothing.
    fn write<T>(&self, act: impl FnOnce(&WriteTransaction) -> Result<T, Fault>) -> Result<T, StoreError> {
        let transact = || {
            let mut txn = self.db.begin_write()?;
            // with one phase, a page that rots could silently bring back the state before: a used ticket, unused
            txn.set_two_phase_commit(true);
            let result = act(&txn)?;
            txn.commit()?;
            Ok(result)
        };
        transact().map_err(|fault: Fault| fault.at(&self.path))
    }

    fn read<T>(&self, act: impl FnOnce(&redb::ReadTransaction) -> Result<T, Fault>) -> Result<T, StoreError> {
        let transact = || act(&self.db.begin_read()?);
        transact().map_err(|fault: Fault| fault.at(&self.path))
    }

    fn one<T>(&self, table: TableDefinition<'static, Id, &[u8]>, id: &[u8; 16]) -> Result<Option<T>, StoreError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        self.read(|txn| txn.open_table(table)?.get(id)?.map(|row| decode(row.value())).transpose())
    }

    fn all<T>(&self, table: TableDefinition<'static, Id, &[u8]>) -> Result<Vec<T>, StoreError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        self.read(|txn| txn.open_table(table)?.iter()?.map(|row| decode(row?.1.value())).collect())
    }
}

fn put_import(txn: &WriteTransaction, record: &ImportRecord) -> Result<(), Fault> {
    let id = record.session;
    txn.open_table(IMPORTS)?.insert(id.as_bytes(), encode(record).as_slice())?;
    if record.state.is_over() { durable::clear(txn, id) } else { Ok(()) }
}

fn remove_import(txn: &WriteTransaction, session: SessionId) -> Result<(), Fault> {
    let id = session.as_bytes();
    txn.open_table(IMPORTS)?.remove(id)?;
    txn.open_table(FAILURES)?.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    durable::clear(txn, session)
}

fn put_export(txn: &WriteTransaction, record: &ExportRecord) -> Result<(), Fault> {
    txn.open_table(EXPORTS)?.insert(record.ticket.as_bytes(), encode(record).as_slice())?;
    Ok(())
}

fn remove_export(txn: &WriteTransaction, ticket: TicketId) -> Result<(), Fault> {
    let removed = match txn.open_table(EXPORTS)?.remove(ticket.as_bytes())? {
        Some(row) => decode::<ExportRecord>(row.value())?,
        None => return Ok(()),
    };
    if let Some(grant) = removed.grant {
        let id = grant.session.as_bytes();
        txn.open_table(FAILURES)?.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    }
    Ok(())
}

fn put_failures(txn: &WriteTransaction, session: SessionId, failures: &[FailureRecord]) -> Result<(), Fault> {
    let id = session.as_bytes();
    let mut table = txn.open_table(FAILURES)?;
    table.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    for failure in failures.iter().take(MAX_FAILURES) {
        table.insert((id, failure.index.0), encode(failure).as_slice())?;
    }
    Ok(())
}

fn put_ports(txn: &WriteTransaction, ports: &[ListenPort]) -> Result<(), Fault> {
    txn.open_table(META)?.insert(META_PORTS, encode(&ports).as_slice())?;
    Ok(())
}

/// What a new store holds.
fn lay_out(txn: &WriteTransaction) -> Result<(), Fault> {
    txn.open_table(IMPORTS)?;
    txn.open_table(EXPORTS)?;
    txn.open_table(DURABLE)?;
    txn.open_table(FAILURES)?;
    txn.open_table(META)?.insert(META_SCHEMA, SCHEMA.to_le_bytes().as_slice())?;
    Ok(())
}

/// Is it a session store of this version, with records that can be read?
fn check(db: &Database) -> Result<(), Fault> {
    let txn = db.begin_read()?;
    let found = txn.open_table(META)?.get(META_SCHEMA)?.map(|row| row.value().try_into());
    match found {
        Some(Ok(schema)) if u32::from_le_bytes(schema) == SCHEMA => {}
        Some(Ok(schema)) if u32::from_le_bytes(schema) > SCHEMA => {
            return Err(Fault::Newer(u32::from_le_bytes(schema)));
        }
        _ => return Err(Fault::Damaged("it does not say which version it has".to_owned())),
    }
    for row in txn.open_table(IMPORTS)?.iter()? {
        let (id, bytes) = row?;
        same(*id.value(), decode::<ImportRecord>(bytes.value())?.session.0)?;
    }
    for row in txn.open_table(EXPORTS)?.iter()? {
        let (id, bytes) = row?;
        same(*id.value(), decode::<ExportRecord>(bytes.value())?.ticket.0)?;
    }
    txn.open_table(DURABLE)?;
    txn.open_table(FAILURES)?;
    Ok(())
}

fn same(key: [u8; 16], record: [u8; 16]) -> Result<(), Fault> {
    if key == record { Ok(()) } else { Err(Fault::Damaged("a record stands under another's name".to_owned())) }
}

/// Wiped when dropped, as records hold secrets.
fn encode<T: minicbor::Encode<()>>(value: &T) -> Zeroizing<Vec<u8>> {
    // room for a record, so that no copy of a secret stays behind in a buffer that was too small
    let mut out = Zeroizing::new(Vec::with_capacity(8 << 10));
    minicbor::encode(value, &mut *out).expect("a vector takes everything");
    out
}

fn decode<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Result<T, Fault> {
    minicbor::decode(bytes).map_err(|e| Fault::Damaged(format!("a record cannot be read: {e}")))
}

#[cfg(test)]
pub(crate) mod tests;
