//! How ids, codes, phases, paths and times stand in JSON, both ways.

use me_sync_protocol::ids::SessionId;
use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;

/// What has one text, and is found by it.
pub(crate) trait Named: ToString + Sized {
    fn named(text: &str) -> Option<Self>;
}

impl Named for SessionId {
    fn named(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Named for Code {
    fn named(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Named for Phase {
    fn named(text: &str) -> Option<Self> {
        const ALL: [Phase; 10] = [
            Phase::NearbyConnecting,
            Phase::WaitingForPeer,
            Phase::ManifestReceiving,
            Phase::BulkTransferring,
            Phase::RetryingFailed,
            Phase::FinalVerifying,
            Phase::Applying,
            Phase::RestartingRuntime,
            Phase::Completed,
            Phase::Failed,
        ];
        ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

pub(crate) mod plain {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::Named;

    pub(crate) fn serialize<T: Named, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }

    pub(crate) fn deserialize<'de, T: Named, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        let text = String::deserialize(d)?;
        T::named(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not known")))
    }
}

pub(crate) mod optional {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::Named;

    pub(crate) fn serialize<T: Named, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(&value.to_string()),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: Named, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
        T::named(&text).map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is not known")))
    }
}

/// JSON has no bytes: what is not UTF-8 in a local path becomes U+FFFD.
pub(crate) mod path {
    use std::path::{Path, PathBuf};

    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(value: &Path, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string_lossy())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        String::deserialize(d).map(PathBuf::from)
    }
}

/// See [`path`].
pub(crate) mod optional_path {
    use std::path::PathBuf;

    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(value: &Option<PathBuf>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => s.serialize_some(&value.to_string_lossy()),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<String>::deserialize(d)?.map(PathBuf::from))
    }
}

pub(crate) mod seconds {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.as_secs())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_secs)
    }
}
