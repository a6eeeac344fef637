//! Claims about the exporter's counters (SPEC §9.2).

use super::*;
use crate::frame::{FailedEntry, IndexRange, PendingList, RetryRequest};
use crate::manifest::{Entry, ManifestBuilder, Node};
use crate::path::RelPath;
use crate::reason::FailureReason;

#[test]
fn a_file_that_is_sent_twice_is_counted_once() {
    let mut builder = ManifestBuilder::new(None, None);
    let node = Node::File { size: 9, sha256: Some(Digest([7; 32])) };
    builder.push(&Entry { path: RelPath::parse("a").unwrap(), node, mode: None, mtime: None }).unwrap();
    let all = vec![IndexRange { start: EntryIndex(0), len: 1 }];
    let failed = vec![FailedEntry { index: EntryIndex(0), reason: FailureReason::HashMismatch }];
    let sent = || Input::Sent { files: 1, bytes: 9, failed: Vec::new(), hashed: Vec::new() };
    let inputs = [
        Input::Opened { importer_holds: None },
        Input::ManifestReady(Arc::new(builder.finish().unwrap())),
        Input::Frame(Frame::PendingList(PendingList { ranges: all, partial: Vec::new(), more: false })),
        sent(),
        Input::Frame(Frame::RetryRequest(RetryRequest { round: 1, failed, more: false })),
        sent(),
    ];
    let mut core = Exporter::new(RetryPolicy::default(), Moment::default());
    for input in inputs {
        core.handle(Moment::default(), input).unwrap();
    }
    let expected =
        Counters { files_ok: 1, files_total: 1, bytes_done: 9, bytes_total: 9, retry_round: 1, files_failed: 0 };
    assert_eq!(core.counters(), expected);
}
