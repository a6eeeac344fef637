//! Which entries of a session are on the disk, with the stamp of each: blocks of a thousand, so that a block fills
//! its page and a million entries take about 16 MiB.

use me_sync_protocol::ids::{EntryIndex, SessionId};
use redb::{ReadableTable, WriteTransaction};

use super::error::Fault;
use super::{DURABLE, Id};

/// How a file looked when it became durable. Opaque here.
type Stamp = [u8; 16];

/// Entries of a block: with their stamps they just stay below 16 KiB.
const BLOCK: u32 = 1000;
/// Bytes of the bits that say which of them are durable.
const MAP: usize = BLOCK as usize / 8;

/// The durable entries of one block by their place in it.
struct Block(Vec<Option<Stamp>>);

impl Block {
    fn empty() -> Self {
        Self(vec![None; BLOCK as usize])
    }

    /// Bits, then the stamps of the entries whose bit is set.
    fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = || Fault::Damaged("a block of durable entries has the wrong length".to_owned());
        let (map, stamps) = bytes.split_at_checked(MAP).ok_or_else(damaged)?;
        let (stamps, rest) = stamps.as_chunks::<16>();
        let count: u32 = map.iter().map(|byte| byte.count_ones()).sum();
        if !rest.is_empty() || stamps.len() != count as usize {
            return Err(damaged());
        }
        let mut stamps = stamps.iter();
        let mut block = Self::empty();
        for (at, slot) in block.0.iter_mut().enumerate() {
            if map[at / 8] & (1 << (at % 8)) != 0 {
                *slot = stamps.next().copied();
            }
        }
        Ok(block)
    }

    /// None when nothing is in it.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![0; MAP];
        for (at, stamp) in self.0.iter().enumerate() {
            if let Some(stamp) = stamp {
                out[at / 8] |= 1 << (at % 8);
                out.extend_from_slice(stamp);
            }
        }
        (out.len() > MAP).then_some(out)
    }
}

pub(super) fn mark(txn: &WriteTransaction, session: SessionId, entries: &[(EntryIndex, Stamp)]) -> Result<(), Fault> {
    change(txn, session, entries.iter().map(|(index, stamp)| (*index, Some(*stamp))).collect())
}

pub(super) fn forget(txn: &WriteTransaction, session: SessionId, entries: &[EntryIndex]) -> Result<(), Fault> {
    change(txn, session, entries.iter().map(|index| (*index, None)).collect())
}

fn change(
    txn: &WriteTransaction,
    session: SessionId,
    mut entries: Vec<(EntryIndex, Option<Stamp>)>,
) -> Result<(), Fault> {
    let mut table = txn.open_table(DURABLE)?;
    // stable: of two stamps of one entry the later one stays
    entries.sort_by_key(|(index, _)| *index);
    for group in entries.chunk_by(|(one, _), (other, _)| one.0 / BLOCK == other.0 / BLOCK) {
        let number = group[0].0.0 / BLOCK;
        let key = (session.as_bytes(), number);
        let mut block = match table.get(key)? {
            Some(row) => Block::decode(row.value())?,
            None => Block::empty(),
        };
        for (index, stamp) in group {
            block.0[(index.0 % BLOCK) as usize] = *stamp;
        }
        match block.encode() {
            Some(bytes) => table.insert(key, bytes.as_slice())?,
            None => table.remove(key)?,
        };
    }
    Ok(())
}

pub(super) fn load(
    table: &impl ReadableTable<(Id, u32), &'static [u8]>,
    session: SessionId,
) -> Result<Vec<(EntryIndex, Stamp)>, Fault> {
    let id = session.as_bytes();
    let mut all = Vec::new();
    for row in table.range((id, 0)..=(id, u32::MAX))? {
        let (key, bytes) = row?;
        let (_, number) = key.value();
        for (at, stamp) in (0u32..).zip(Block::decode(bytes.value())?.0) {
            let Some(stamp) = stamp else { continue };
            let index = number.checked_mul(BLOCK).and_then(|from| from.checked_add(at));
            let index = index.ok_or_else(|| Fault::Damaged("a durable entry is beyond every manifest".to_owned()))?;
            all.push((EntryIndex(index), stamp));
        }
    }
    Ok(all)
}

/// Drops all of a session.
pub(super) fn clear(txn: &WriteTransaction, session: SessionId) -> Result<(), Fault> {
    let id = session.as_bytes();
    txn.open_table(DURABLE)?.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    Ok(())
}
