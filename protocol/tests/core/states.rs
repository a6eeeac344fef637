//! Cores brought to a given state by legal inputs alone, their outputs drained.

use bytes::Bytes;
use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep};
use me_sync_protocol::frame::{
    FailedEntry, FileBegin, FileEnd, FinalizeRequest, Frame, IndexRange, ManifestEnd, PendingList, PendingRequest,
    PhaseEnd, RetryBegin, RetryRequest,
};
use me_sync_protocol::ids::{EntryIndex, Moment};
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::manifest::Node;
use me_sync_protocol::reason::FailureReason;
use me_sync_protocol::retry::RetryPolicy;

use crate::tree::Tree;

/// Where an importer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    Start,
    Manifest,
    Review,
    Asked,
    Accepted,
    Bulk,
    Retry,
    RetryBegun,
    AwaitFinalize,
    Applying,
}

impl At {
    pub(crate) const ALL: [Self; 10] = [
        Self::Start,
        Self::Manifest,
        Self::Review,
        Self::Asked,
        Self::Accepted,
        Self::Bulk,
        Self::Retry,
        Self::RetryBegun,
        Self::AwaitFinalize,
        Self::Applying,
    ];
}

/// An importer at that state; in a retry the first file is the one that failed.
pub(crate) fn importer_at(at: At, tree: &Tree) -> Importer {
    let manifest = &tree.manifest;
    let mut core = Importer::new(RetryPolicy::default(), Moment::default());
    let mut take = |input| core.handle(Moment::default(), input).expect("legal");
    let frame = importer::Input::Frame;
    if at >= At::Manifest {
        take(frame(Frame::ManifestBegin(manifest.header_bytes())));
    }
    if at >= At::Review {
        manifest.chunks().for_each(|chunk| take(frame(Frame::ManifestChunk(chunk))));
        take(frame(Frame::ManifestEnd(ManifestEnd { manifest_sha256: manifest.sha256() })));
    }
    if at >= At::Asked && at != At::Accepted {
        take(frame(Frame::PendingRequest(PendingRequest {})));
    }
    if at >= At::Accepted {
        take(importer::Input::Accept(Vec::new()));
    }
    if at >= At::Retry {
        let files: Vec<_> = manifest.entries().filter(|(_, e)| e.is_file()).map(|(index, _)| index).collect();
        let fails = matches!(at, At::Retry | At::RetryBegun);
        for (n, index) in (0..).zip(&files) {
            report(&mut core, tree, *index, fails && n == 0);
        }
        let mut take = |input| core.handle(Moment::default(), input).expect("legal");
        take(frame(Frame::PhaseEnd(PhaseEnd { files: files.len() as u64, bytes: 0 })));
        if at == At::RetryBegun {
            take(frame(Frame::RetryBegin(RetryBegin { round: 1, files: 1 })));
        }
        if at == At::Applying {
            take(frame(Frame::FinalizeRequest(finalize_request(tree))));
        }
    }
    drain_importer(&mut core);
    core
}

pub(crate) fn finalize_request(tree: &Tree) -> FinalizeRequest {
    FinalizeRequest {
        manifest_sha256: tree.manifest.sha256(),
        entry_count: u64::from(tree.manifest.len()),
        total_bytes: tree.manifest.total_bytes(),
    }
}

/// The frame that begins a file, as its manifest says.
pub(crate) fn begin(tree: &Tree, index: EntryIndex) -> Frame {
    let Some(Node::File { size, sha256 }) = tree.manifest.entry(index).map(|e| e.node) else { panic!("no file") };
    Frame::FileBegin(FileBegin { index, size, sha256, offset: 0 })
}

pub(crate) fn end(index: EntryIndex) -> Frame {
    Frame::FileEnd(FileEnd { index, failed: None, sha256: None })
}

/// Lets one file arrive on a lane of its own, right or without its bytes, and reports it.
pub(crate) fn report(core: &mut Importer, tree: &Tree, index: EntryIndex, fails: bool) {
    let mut lane = lane(core, tree);
    lane.handle(begin(tree, index)).expect("asked for");
    let bytes = tree.bytes(index);
    if !fails && !bytes.is_empty() {
        lane.handle(Frame::FileChunk(bytes)).expect("inside a file");
    }
    if fails {
        lane.fail(FailureReason::IoError);
    }
    let report = match lane.handle(end(index)).expect("the file that was begun") {
        LaneStep::Keep(file) => FileReport::Ok(file),
        LaneStep::Drop { entry, .. } => FileReport::Failed(entry),
        other => panic!("{other:?}"),
    };
    core.handle(Moment::default(), importer::Input::Files(vec![report])).expect("a file that was asked for");
}

pub(crate) fn lane(core: &Importer, tree: &Tree) -> LaneReceiver {
    LaneReceiver::new(tree.manifest.clone(), core.requested().clone(), 1 << 20)
}

/// Where an exporter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Out {
    Hashing,
    Asking,
    HalfAsked,
    Sending,
    AwaitRetry,
    HalfRetry,
    Retrying,
    Finalizing,
}

impl Out {
    pub(crate) const ALL: [Self; 8] = [
        Self::Hashing,
        Self::Asking,
        Self::HalfAsked,
        Self::Sending,
        Self::AwaitRetry,
        Self::HalfRetry,
        Self::Retrying,
        Self::Finalizing,
    ];
}

/// An exporter at that state; half lists name the first entry.
pub(crate) fn exporter_at(at: Out, tree: &Tree) -> Exporter {
    let mut core = Exporter::new(RetryPolicy::default(), Moment::default());
    let mut take = |input| core.handle(Moment::default(), input).expect("legal");
    let frame = exporter::Input::Frame;
    let first = EntryIndex(0);
    take(exporter::Input::Opened { importer_holds: None });
    if at >= Out::Asking {
        take(exporter::Input::ManifestReady(tree.manifest.clone()));
    }
    if at == Out::HalfAsked {
        take(frame(pending_list(vec![IndexRange { start: first, len: 1 }], true)));
    }
    if at >= Out::Sending {
        take(frame(pending_list(vec![IndexRange { start: first, len: tree.manifest.len() }], false)));
    }
    if at >= Out::AwaitRetry {
        let (files, bytes) = (u64::from(tree.manifest.counts().files), tree.manifest.total_bytes());
        take(exporter::Input::Sent { files, bytes, failed: Vec::new(), hashed: Vec::new() });
    }
    if matches!(at, Out::HalfRetry | Out::Retrying) {
        take(frame(retry_request(1, &[0], at == Out::HalfRetry)));
    }
    if at == Out::Finalizing {
        take(frame(retry_request(1, &[], false)));
    }
    drain_exporter(&mut core);
    core
}

pub(crate) fn pending_list(ranges: Vec<IndexRange>, more: bool) -> Frame {
    Frame::PendingList(PendingList { ranges, partial: Vec::new(), more })
}

pub(crate) fn retry_request(round: u32, failed: &[u32], more: bool) -> Frame {
    let entry = |index: &u32| FailedEntry { index: EntryIndex(*index), reason: FailureReason::HashMismatch };
    Frame::RetryRequest(RetryRequest { round, failed: failed.iter().map(entry).collect(), more })
}

pub(crate) fn drain_importer(core: &mut Importer) -> Vec<importer::Output> {
    std::iter::from_fn(|| match core.poll_output() {
        importer::Output::Idle(_) => None,
        output => Some(output),
    })
    .collect()
}

pub(crate) fn drain_exporter(core: &mut Exporter) -> Vec<exporter::Output> {
    std::iter::from_fn(|| match core.poll_output() {
        exporter::Output::Idle(_) => None,
        output => Some(output),
    })
    .collect()
}

/// 300 times the letter a.
pub(crate) fn packed() -> me_sync_protocol::packed::Packed {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, 0x63, 0x09, 0x00, b'a'];
    let packed = me_sync_protocol::packed::Packed::new(300, Bytes::copy_from_slice(&zstd));
    packed.expect("one frame of that length")
}

/// One plausible frame of every type, for a tree whose entries 0 and 1 are files, and which has four in all.
pub(crate) fn every_frame(tree: &Tree) -> Vec<Frame> {
    use me_sync_protocol::frame::{Abort, Ack, FinalizeResult, Progress, RetryEnd, Role, StreamHello};
    use me_sync_protocol::ids::SessionId;
    use me_sync_protocol::progress::{Counters, Phase};
    use me_sync_protocol::reason::Code;
    vec![
        Frame::Hello(StreamHello { session_id: SessionId([1; 16]), role: Role::Control }),
        Frame::Ack(Ack { refused: None }),
        Frame::ManifestBegin(tree.manifest.header_bytes()),
        Frame::ManifestChunk(tree.manifest.chunks().next().expect("not empty")),
        // as an end, this one is right only after all chunks: here it is judged by its place alone
        Frame::ManifestEnd(ManifestEnd { manifest_sha256: tree.manifest.sha256() }),
        begin(tree, EntryIndex(0)),
        Frame::FileChunk(Bytes::from_static(b"x")),
        Frame::FilePacked(packed()),
        Frame::FileZeros(me_sync_protocol::frame::FileZeros { len: 300 }),
        end(EntryIndex(0)),
        Frame::PhaseEnd(PhaseEnd { files: 2, bytes: 0 }),
        retry_request(1, &[1], false),
        Frame::RetryBegin(RetryBegin { round: 1, files: 1 }),
        Frame::RetryEnd(RetryEnd { round: 1, files: 1, bytes: 0 }),
        Frame::PendingRequest(PendingRequest {}),
        pending_list(vec![IndexRange { start: EntryIndex(1), len: 3 }], false),
        Frame::FinalizeRequest(finalize_request(tree)),
        Frame::FinalizeResult(FinalizeResult { failed: None }),
        Frame::Progress(Progress { phase: Phase::Completed, counters: Counters::default(), waiting: false }),
        Frame::Abort(Abort { code: Code::Aborted }),
    ]
}
