//! Versions and capabilities (SPEC §6.2). Unknown capabilities are ignored, unknown majors refused.

use std::collections::BTreeMap;

use crate::limits::MAX_TEXT;
use crate::reason::Code;

/// The seed's flag: this side speaks the v4 streaming protocol.
pub const STREAMING: &str = "me_sync_v4_streaming";
/// The protocol major version of this crate.
pub const VERSION: u32 = 4;
/// Most capabilities a peer may name.
pub const MAX_CAPS: usize = 32;

/// What one side can do: a map of names to `true` or `false` (seed §11).
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Capabilities(#[n(0)] BTreeMap<String, bool>);

impl Capabilities {
    /// What this implementation offers.
    pub fn ours() -> Self {
        Self([(STREAMING.to_owned(), true)].into())
    }

    /// Is the named capability offered?
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name) == Some(&true)
    }

    /// Within the limits of SPEC §6.2?
    pub fn is_bounded(&self) -> bool {
        self.0.len() <= MAX_CAPS && self.0.keys().all(|name| name.len() <= MAX_TEXT)
    }
}

/// Picks the version both sides speak.
///
/// # Errors
/// [`Code::VersionMismatch`] when there is none, or the peer lacks [`STREAMING`]. There is no silent fallback.
pub fn negotiate(versions: &[u32], caps: &Capabilities) -> Result<u32, Code> {
    if versions.contains(&VERSION) && caps.has(STREAMING) { Ok(VERSION) } else { Err(Code::VersionMismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SPEC §6.2
    #[test]
    fn a_peer_without_v4_or_with_stripped_caps_is_refused_not_downgraded() {
        assert_eq!(negotiate(&[3, 4, 5], &Capabilities::ours()), Ok(4));
        assert_eq!(negotiate(&[3], &Capabilities::ours()), Err(Code::VersionMismatch));
        assert_eq!(negotiate(&[4], &Capabilities::default()), Err(Code::VersionMismatch));
    }
}
