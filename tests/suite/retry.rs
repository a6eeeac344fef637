//! Files that fail: sent again alone, a bounded number of times, and never half committed.

use crate::support::tree::{assert_images, assert_same, file, image, sample};
use crate::support::{TestNode, completed, failed, leftovers, migrate};
use me_sync_protocol::reason::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_corrupted_once_is_sent_again_alone_in_round_one() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    sample(&source);
    let (a, b) = (TestNode::corrupting(&[("big.bin", 1)]).await, TestNode::start().await);
    let (export, import) = migrate(&a, &b, &source, &target).await;
    completed(&import).await;
    completed(&export).await;
    assert_same(&source, &target);
    let (sent, got) = (export.view().progress, import.view().progress);
    assert_eq!((sent.retry_round, got.retry_round), (1, 1));
    assert_eq!(got.files_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_corrupted_always_ends_the_session_with_the_target_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    sample(&source);
    file(&target, "old", 10, 0o644);
    let old = image(&target);
    let (a, b) = (TestNode::corrupting(&[("big.bin", 100)]).await, TestNode::start().await);
    let (export, import) = migrate(&a, &b, &source, &target).await;
    assert_eq!(failed(&import).await, Code::RetryExhausted);
    assert_eq!(failed(&export).await, Code::RetryExhausted);
    let view = import.view();
    assert_eq!((view.progress.retry_round, view.failures_total), (3, 1));
    assert_eq!((view.failures[0].path.as_str(), view.failures[0].reason.as_str()), ("big.bin", "hash_mismatch"));
    assert_images(&old, &image(&target));
    // what arrived is kept for another try, until somebody says that there will be none
    assert_eq!(leftovers(dir.path()).len(), 1);
    let session = view.session_id.expect("a session");
    b.node.handle().end_session(session).await.expect("ended");
    assert!(leftovers(dir.path()).is_empty());
}
