//! How records encode what CBOR has no type for. Only for `with` attributes.

/// Paths as the bytes they are.
pub(super) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use minicbor::{Decoder, Encoder};

    pub(in crate::store) fn encode<C, W: minicbor::encode::Write>(
        path: &Path,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(path.as_os_str().as_bytes())?.ok()
    }

    pub(in crate::store) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<PathBuf, minicbor::decode::Error> {
        d.bytes().map(|raw| OsString::from_vec(raw.to_vec()).into())
    }
}

pub(super) mod peer_id {
    use libp2p::PeerId;
    use minicbor::{Decoder, Encoder};

    pub(in crate::store) fn encode<C, W: minicbor::encode::Write>(
        peer: &PeerId,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&peer.to_bytes())?.ok()
    }

    pub(in crate::store) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<PeerId, minicbor::decode::Error> {
        PeerId::from_bytes(d.bytes()?).map_err(|_| minicbor::decode::Error::message("not a PeerId"))
    }
}

pub(super) mod maybe_peer_id {
    use libp2p::PeerId;
    use minicbor::data::Type;
    use minicbor::{Decoder, Encoder};

    pub(in crate::store) fn encode<C, W: minicbor::encode::Write>(
        peer: &Option<PeerId>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        match peer {
            Some(peer) => super::peer_id::encode(peer, e, ctx),
            None => e.null()?.ok(),
        }
    }

    pub(in crate::store) fn decode<C>(
        d: &mut Decoder<'_>,
        ctx: &mut C,
    ) -> Result<Option<PeerId>, minicbor::decode::Error> {
        match d.datatype()? {
            Type::Null => d.null().map(|()| None),
            _ => super::peer_id::decode(d, ctx).map(Some),
        }
    }

    pub(in crate::store) fn nil() -> Option<Option<PeerId>> {
        Some(None)
    }

    pub(in crate::store) fn is_nil(peer: &Option<PeerId>) -> bool {
        peer.is_none()
    }
}

pub(super) mod transport {
    use minicbor::{Decoder, Encoder};

    use crate::net::TransportPreference;

    pub(in crate::store) fn encode<C, W: minicbor::encode::Write>(
        transport: &TransportPreference,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        let name = match transport {
            TransportPreference::Auto => "auto",
            TransportPreference::Tcp => "tcp",
            TransportPreference::Quic => "quic",
            TransportPreference::Ws => "ws",
        };
        e.str(name)?.ok()
    }

    pub(in crate::store) fn decode<C>(
        d: &mut Decoder<'_>,
        _: &mut C,
    ) -> Result<TransportPreference, minicbor::decode::Error> {
        match d.str()? {
            "auto" => Ok(TransportPreference::Auto),
            "tcp" => Ok(TransportPreference::Tcp),
            "quic" => Ok(TransportPreference::Quic),
            "ws" => Ok(TransportPreference::Ws),
            _ => Err(minicbor::decode::Error::message("unknown transport")),
        }
    }
}
