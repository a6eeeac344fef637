//! The worked example of SPEC Appendix A, played by both machines, and what each of them refuses on the way.

use std::sync::Arc;

use bytes::BytesMut;
use me_sync_protocol::codec;
use me_sync_protocol::exporter::{self, Exporter};
use me_sync_protocol::file::{FileReport, LaneReceiver, LaneStep, LocalFile, VerifiedFile};
use me_sync_protocol::frame::*;
use me_sync_protocol::ids::{Digest, EntryIndex, Moment, SessionId};
use me_sync_protocol::importer::{self, Importer};
use me_sync_protocol::limits::{KEEPALIVE, MIN_RATE_WINDOW, STALL};
use me_sync_protocol::manifest::{Entry, Manifest, ManifestBuilder, Mtime, Node};
use me_sync_protocol::path::RelPath;
use me_sync_protocol::progress::{Counters, Phase};
use me_sync_protocol::reason::{Code, FailureReason};
use me_sync_protocol::retry::RetryPolicy;
use sha2::{Digest as _, Sha256};

const SESSION: SessionId = SessionId(*b"session-id-16-by");
const START: Moment = Moment(std::time::Duration::ZERO);

fn content(path: &str) -> &'static [u8] {
    if path == "bin/run" { b"hello" } else { b"" }
}

/// The tree of the vector `manifest_sample`.
fn sample() -> Arc<Manifest> {
    let mut builder = ManifestBuilder::new(Some(0o700), Some(Mtime { ms: -2_208_988_800_000, sub_ns: 0 }));
    let at = |ms, sub_ns| Some(Mtime { ms, sub_ns });
    let file = |raw: &[u8]| Node::File { size: raw.len() as u64, sha256: Some(Digest(Sha256::digest(raw).into())) };
    for (path, node, mode, mtime) in [
        ("bin", Node::Dir, Some(0o750), at(-1, 999_999)),
        ("bin/run", file(b"hello"), Some(0o755), at(1_700_000_000_123, 456_789)),
        ("empty", file(b""), None, None),
        ("latest", Node::Symlink { target: "bin/run".into() }, None, at(-86_400_000, 0)),
    ] {
        let path = RelPath::parse(path).expect("a valid path");
        builder.push(&Entry { path, node, mode, mtime }).expect("a valid entry");
    }
    Arc::new(builder.finish().expect("a valid manifest"))
}

/// Both machines, one lane, and every frame that was sent, as Appendix A prints it.
struct Pair {
    exporter: Exporter,
    importer: Importer,
    lane: Option<LaneReceiver>,
    manifest: Arc<Manifest>,
    now: Moment,
    log: Vec<String>,
    over: [Option<Result<(), Code>>; 2],
    suspended: [Option<bool>; 2],
    /// Whether the user agrees, whether the swap is reported, and for how many rounds `bin/run` is damaged.
    accept: bool,
    apply: bool,
    damaged: u32,
}

impl Pair {
    fn new() -> Self {
        let (policy, manifest) = (RetryPolicy::default(), sample());
        let mut pair = Self {
            exporter: Exporter::new(policy, START),
            importer: Importer::new(policy, START),
            lane: None,
            manifest,
            now: START,
            log: Vec::new(),
            over: [None, None],
            suspended: [None, None],
            accept: true,
            apply: true,
            damaged: 0,
        };
        pair.note("I>", &Frame::Hello(StreamHello { session_id: SESSION, role: Role::Control }));
        pair.note("E>", &Frame::Ack(Ack { refused: None }));
        pair
    }

    /// Both processes start again; of the importer's staging tree `empty` and three bytes of `bin/run` are left.
    fn restarted() -> Self {
        let mut pair = Self::new();
        let manifest = pair.manifest.clone();
        let empty = LocalFile::begin(&manifest, EntryIndex(2)).expect("a file").finish().expect("nothing is missing");
        let mut run = LocalFile::begin(&manifest, EntryIndex(1)).expect("a file");
        run.update(b"hel");
        let (have, partial): (Vec<VerifiedFile>, Vec<_>) = (vec![empty], run.into_partial().into_iter().collect());
        pair.exporter = Exporter::restored(RetryPolicy::default(), START);
        pair.importer = Importer::restored(RetryPolicy::default(), START, manifest.clone(), have, partial);
        pair.export(exporter::Input::ManifestReady(manifest));
        let importer_holds = pair.importer.holds();
        pair.import(importer::Input::Resumed);
        pair.export(exporter::Input::Opened { importer_holds });
        pair.settle();
        pair
    }

    fn start(&mut self) {
        self.export(exporter::Input::ManifestReady(self.manifest.clone()));
        self.export(exporter::Input::Opened { importer_holds: None });
        self.settle();
    }

    fn note(&mut self, who: &str, frame: &Frame) {
        let mut out = BytesMut::new();
        codec::encode(frame, &mut out);
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        self.log.push(format!("{who} {} {hex}", frame.name()));
        assert_eq!(codec::decode(&mut out), Ok(Some(frame.clone())));
    }

    fn export(&mut self, input: exporter::Input) {
        self.exporter.handle(self.now, input).expect("no breach by the importer");
    }

    fn import(&mut self, input: importer::Input) {
        self.importer.handle(self.now, input).expect("no breach by the exporter");
    }

    /// Lets both go on until neither has anything to do.
    fn settle(&mut self) {
        loop {
            let (out, answer) = (self.exporter.poll_output(), self.importer.poll_output());
            let idle = matches!((&out, &answer), (exporter::Output::Idle(_), importer::Output::Idle(_)));
            match out {
                exporter::Output::Send(frame) => {
                    self.note("E>", &frame);
                    self.import(importer::Input::Frame(frame));
                }
                exporter::Output::SendFiles { entries, partial } => self.send(&entries, &partial),
                exporter::Output::Suspended { reset } => self.suspended[0] = Some(reset),
                exporter::Output::Over(result) => self.over[0] = Some(result),
                exporter::Output::Sealed(_) | exporter::Output::Idle(_) => {}
            }
            match answer {
                importer::Output::Send(frame) => {
                    self.note("I>", &frame);
                    self.export(exporter::Input::Frame(frame));
                }
                importer::Output::Review(_) if self.accept => self.import(importer::Input::Accept(Vec::new())),
                importer::Output::Apply(proof) => {
                    assert_eq!(proof.manifest_sha256(), self.manifest.sha256());
                    if self.apply {
                        self.import(importer::Input::Swapping);
                        self.import(importer::Input::Applied(Ok(())));
                    }
                }
                importer::Output::Over(result) => self.over[1] = Some(result),
                importer::Output::Suspended { reset } => self.suspended[1] = Some(reset),
                importer::Output::Review(_) | importer::Output::Adopt { .. } | importer::Output::Idle(_) => {}
            }
            if idle {
                return;
            }
        }
    }

    fn send(&mut self, files: &[EntryIndex], partial: &[PartialFile]) {
        if self.lane.is_none() {
            self.note("L>", &Frame::Hello(StreamHello { session_id: SESSION, role: Role::Lane(0) }));
            self.note("l>", &Frame::Ack(Ack { refused: None }));
            self.lane = Some(LaneReceiver::new(self.manifest.clone(), self.importer.requested().clone(), 262_144));
        }
        for index in files {
            let entry = self.manifest.entry(*index).expect("an entry");
            let bytes = content(entry.path.as_str());
            let Node::File { size, sha256 } = entry.node else { panic!("not a file") };
            let offset = partial.iter().find(|p| p.index == *index).map_or(0, |p| p.offset);
            let bytes = &bytes[usize::try_from(offset).expect("small")..];
            let mut frames = vec![Frame::FileBegin(FileBegin { index: *index, size, sha256, offset })];
            if !bytes.is_empty() {
                let spoilt = self.damaged > 0;
                self.damaged = self.damaged.saturating_sub(1);
                frames.push(Frame::FileChunk(if spoilt { &b"hullo"[..] } else { bytes }.into()));
            }
            frames.push(Frame::FileEnd(FileEnd { index: *index, failed: None, sha256: None }));
            for frame in frames {
                self.note("L>", &frame);
                let report = match self.lane.as_mut().expect("open").handle(frame).expect("no breach") {
                    LaneStep::Keep(file) => FileReport::Ok(file),
                    LaneStep::Drop { entry, .. } => FileReport::Failed(entry),
                    LaneStep::Unpack(_) | LaneStep::Zeros(_) => unreachable!("not agreed"),
                    LaneStep::Create(_) | LaneStep::Continue(..) | LaneStep::Write(_) | LaneStep::Ignore => continue,
                };
                self.import(importer::Input::Files(vec![report]));
            }
            self.export(exporter::Input::Sent { files: 1, bytes: bytes.len() as u64, failed: vec![], hashed: vec![] });
        }
    }

    fn names(&self) -> Vec<&str> {
        self.log.iter().filter_map(|line| line.split(' ').nth(1)).collect()
    }
}

/// A block of Appendix A: a frame that is wrapped goes on in lines that start with a space.
fn appendix(nth: usize) -> Vec<String> {
    let spec = include_str!("../SPEC.md");
    let (_, rest) = spec.split_once("## Appendix A").expect("Appendix A");
    let block = rest
        .split("```")
        .filter(|block| block.starts_with("text"))
        .nth(nth)
        .expect("a block")
        .trim_start_matches("text");
    let mut lines: Vec<String> = Vec::new();
    for line in block.trim().lines() {
        match line.strip_prefix(' ') {
            Some(more) => lines.last_mut().expect("a line before").push_str(more.trim()),
            None => lines.push(line.split_whitespace().collect::<Vec<_>>().join(" ")),
        }
    }
    lines
}

// SPEC §5.3, §5.5, §5.6, §5.7, §9.1, §9.2, §10.1, §10.2
#[test]
fn the_worked_example_is_what_both_machines_do() {
    let mut pair = Pair::new();
    pair.start();
    assert_eq!(pair.over, [Some(Ok(())), Some(Ok(()))]);
    assert_eq!((pair.exporter.phase(), pair.importer.phase()), (Phase::Completed, Phase::Completed));
    let counters = pair.importer.counters();
    assert_eq!((counters.files_ok, counters.files_total, counters.bytes_done, counters.bytes_total), (2, 2, 5, 5));
    assert_eq!(pair.log, appendix(0), "the example in SPEC.md is not what is sent");
}

// SPEC §5.4, §5.5, §6.4
#[test]
fn the_worked_example_of_a_resume_is_what_both_machines_do() {
    let pair = Pair::restarted();
    assert_eq!(pair.over, [Some(Ok(())), Some(Ok(()))]);
    let counters = pair.exporter.counters();
    assert_eq!((counters.files_ok, counters.bytes_done), (2, 5), "what was there counts");
    assert_eq!(pair.log, appendix(2), "the example in SPEC.md is not what is sent");
}

// SPEC §5.4, §5.6, §7.1
#[test]
fn a_damaged_file_is_asked_for_again_alone_and_given_up_after_three_rounds() {
    let mut pair = Pair::new();
    pair.damaged = 1;
    pair.start();
    assert_eq!(pair.over, [Some(Ok(())), Some(Ok(()))]);
    assert_eq!(pair.names().iter().filter(|name| **name == "file_begin").count(), 3);
    let mut pair = Pair::new();
    pair.damaged = 4;
    pair.start();
    assert_eq!(pair.over, [Some(Err(Code::RetryExhausted)); 2]);
    assert_eq!(pair.names().iter().filter(|name| **name == "retry_begin").count(), 3);
    assert_eq!(pair.importer.failures(), [(EntryIndex(1), FailureReason::HashMismatch)]);
}

// SPEC §5.8, §5.9, §8.2
#[test]
fn signs_of_life_come_in_time_and_a_silent_peer_is_taken_for_lost() {
    let mut pair = Pair::new();
    pair.accept = false;
    pair.start();
    for _ in 0..20 {
        pair.now = pair.now.after(KEEPALIVE);
        pair.export(exporter::Input::Tick);
        pair.import(importer::Input::Tick);
        pair.settle();
    }
    assert_eq!(pair.over, [None, None], "a person may take long to agree");
    assert_eq!(pair.names().iter().filter(|name| **name == "progress").count(), 40);
    pair.now = pair.now.after(STALL);
    pair.export(exporter::Input::Tick);
    pair.settle();
    assert_eq!((pair.suspended, pair.over), ([Some(true), None], [None, None]), "its connection is dropped, no more");
    assert_eq!(pair.exporter.phase(), Phase::WaitingForPeer);
    pair.import(importer::Input::Lost);
    pair.settle();
    assert_eq!((pair.suspended[1], pair.importer.phase()), (Some(false), Phase::WaitingForPeer));
}

// SPEC §8.2
#[test]
fn a_peer_that_sends_signs_of_life_but_too_few_bytes_is_taken_for_lost() {
    for (bytes, waiting_on_us, outcome) in [(5000, false, Some(true)), (6000, false, None), (1, true, None)] {
        let mut importer = Importer::new(RetryPolicy::default(), START);
        let mut now = START;
        let header = sample().header_bytes();
        importer.handle(now, importer::Input::Frame(Frame::ManifestBegin(header))).expect("a manifest begins");
        for _ in 0..MIN_RATE_WINDOW.as_secs() / KEEPALIVE.as_secs() {
            now = now.after(KEEPALIVE);
            importer.handle(now, importer::Input::Moved { bytes, waiting_on_us }).expect("no breach");
        }
        let over = std::iter::from_fn(|| match importer.poll_output() {
            importer::Output::Idle(_) => None,
            output => Some(output),
        });
        let over =
            over.filter_map(|o| if let importer::Output::Suspended { reset } = o { Some(reset) } else { None }).last();
        assert_eq!(over, outcome, "{bytes} bytes in 5 s");
    }
}

// SPEC §8.2: a disk that is slow at one end is no fault to the other
#[test]
fn a_peer_that_waits_for_its_own_disk_is_not_taken_for_lost() {
    for (waiting, outcome) in [(false, Some(true)), (true, None)] {
        let mut importer = Importer::new(RetryPolicy::default(), START);
        let mut now = START;
        let header = sample().header_bytes();
        importer.handle(now, importer::Input::Frame(Frame::ManifestBegin(header))).expect("a manifest begins");
        for _ in 0..20 {
            now = now.after(KEEPALIVE);
            let progress = Progress { phase: Phase::ManifestReceiving, counters: Counters::default(), waiting };
            importer.handle(now, importer::Input::Frame(Frame::Progress(progress))).expect("no breach");
        }
        let over = std::iter::from_fn(|| match importer.poll_output() {
            importer::Output::Idle(_) => None,
            output => Some(output),
        });
        let over =
            over.filter_map(|o| if let importer::Output::Suspended { reset } = o { Some(reset) } else { None }).last();
        assert_eq!(over, outcome, "waiting: {waiting}");
    }
}

// SPEC §5.7, §5.9, §6.8
#[test]
fn an_importer_that_applies_goes_on_whatever_the_peer_does() {
    let mut pair = Pair::new();
    pair.apply = false;
    pair.start();
    assert!(pair.importer.is_applying());
    pair.import(importer::Input::Frame(Frame::Abort(Abort { code: Code::Aborted })));
    pair.import(importer::Input::Lost);
    pair.import(importer::Input::Stop(Code::Aborted));
    pair.now = pair.now.after(STALL).after(STALL);
    pair.import(importer::Input::Tick);
    assert!(pair.importer.is_applying());
    pair.import(importer::Input::Applied(Ok(())));
    pair.settle();
    assert_eq!(pair.over, [None, Some(Ok(()))], "there was no connection for the result");
    pair.export(exporter::Input::Result(None));
    pair.settle();
    assert_eq!(pair.over, [Some(Ok(())), Some(Ok(()))]);
}

// SPEC §5.2, §5.5, §5.6, §5.7
#[test]
fn frames_out_of_place_end_the_session_with_their_code() {
    let list = |ranges: &[(u32, u32)], more| {
        let ranges = ranges.iter().map(|(start, len)| IndexRange { start: EntryIndex(*start), len: *len }).collect();
        PendingList { ranges, partial: vec![], more }
    };
    let partial = vec![PartialFile { index: EntryIndex(1), offset: 6 }];
    for (answer, code) in [
        (Frame::PendingList(list(&[(0, 0)], false)), Code::FrameUnexpected),
        (Frame::PendingList(list(&[(0, 5)], false)), Code::FrameUnexpected),
        (Frame::PendingList(list(&[(1, u32::MAX)], false)), Code::FrameUnexpected),
        (Frame::PendingList(list(&[(0, 3), (2, 1)], false)), Code::FrameUnexpected),
        (Frame::PendingList(list(&[], true)), Code::FrameUnexpected),
        (Frame::PendingList(PendingList { partial, ..list(&[(1, 1)], false) }), Code::OffsetMismatch),
        (Frame::RetryRequest(RetryRequest { round: 1, failed: vec![], more: false }), Code::FrameUnexpected),
        (Frame::FinalizeResult(FinalizeResult { failed: None }), Code::FrameUnexpected),
        (Frame::PhaseEnd(PhaseEnd { files: 0, bytes: 0 }), Code::FrameUnexpected),
    ] {
        let mut pair = Pair::new();
        pair.accept = false;
        pair.start();
        let got = pair.exporter.handle(START, exporter::Input::Frame(answer.clone()));
        assert_eq!(got.map_err(|v| v.code), Err(code), "{answer:?}");
        pair.settle();
        assert_eq!(pair.over, [Some(Err(code)); 2], "both sides know the code");
    }
    let request = FinalizeRequest { manifest_sha256: Digest([1; 32]), entry_count: 4, total_bytes: 5 };
    let mut pair = Pair::new();
    pair.accept = false;
    pair.start();
    let got = pair.importer.handle(START, importer::Input::Frame(Frame::FinalizeRequest(request)));
    assert_eq!(got.map_err(|v| v.code), Err(Code::FrameUnexpected), "an early finalize");
}
