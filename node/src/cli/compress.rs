//! `--compress`: when files are packed on their way.

use clap::ValueEnum;
use me_sync_node::{Completion, Compression};

/// What `--compress` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compress {
    /// What shrinks, while the connection is slower than packing
    Auto,
    /// Nothing
    Never,
    /// Whatever shrinks
    Always,
}

impl From<Compress> for Compression {
    fn from(compress: Compress) -> Self {
        match compress {
            Compress::Auto => Self::Auto,
            Compress::Never => Self::Never,
            Compress::Always => Self::Always,
        }
    }
}

/// `packed to 28 %`, if it was worth it.
pub(crate) fn packed(payload: u64, wire: u64) -> Option<String> {
    let percent = (u128::from(wire) * 100).checked_div(u128::from(payload))?;
    (percent < 100).then(|| format!("packed to {} %", percent.max(1)))
}

/// The same of a finished migration.
pub(crate) fn packed_in_all(done: &Completion) -> Option<String> {
    packed(done.payload_bytes, done.wire_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_packed_is_said_to_be() {
        assert_eq!(packed(0, 0), None);
        assert_eq!(packed(1000, 1000), None);
        assert_eq!(packed(1000, 995).as_deref(), Some("packed to 99 %"));
        assert_eq!(packed(1000, 281).as_deref(), Some("packed to 28 %"));
        assert_eq!(packed(1 << 40, 5).as_deref(), Some("packed to 1 %"));
    }
}
