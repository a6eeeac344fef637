//! What becomes of the trees between the offer and the swap.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use me_sync_node::limit::Rate;
use me_sync_node::{Consent, ImportOptions, JobHandle};
use me_sync_protocol::reason::Code;
use tempfile::TempDir;

use crate::support::tree::{assert_same, file, sample};
use crate::support::wire::sees;
use crate::support::{TestNode, completed, failed, leftovers};

fn change(source: &Path) {
    file(source, "later", 10, 0o644);
    fs::create_dir_all(source.join("made/empty")).expect("made");
    fs::remove_file(source.join("a.txt")).expect("removed");
    fs::set_permissions(source.join("empty"), fs::Permissions::from_mode(0o640)).expect("changed");
    symlink("later", source.join("link of today")).expect("linked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_goes_as_it_is_when_its_importer_comes() {
    let from = TestNode::with(|config| config.look_again_after = Duration::ZERO).await;
    let to = TestNode::start().await;
    for (n, (changes, waits)) in [(false, true), (true, true), (true, false)].into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        sample(&source);
        let offer = from.offer(&source).await;
        if waits {
            let is_hashed =
                |view: &me_sync_node::JobView| view.progress.files_total > 0 && view.progress.files_hashed.is_none();
            sees(&offer.job, "hashed", is_hashed).await;
        }
        if changes {
            change(&source);
        }
        let import = to.import(&offer.ticket, &target).await;
        completed(&import).await;
        completed(&offer.job).await;
        assert_same(&source, &target);
        assert_eq!(target.join("later").exists(), changes, "{n}");
    }
}

/// An import that found something else where it was to put its tree.
struct Case {
    dir: TempDir,
    from: TestNode,
    to: TestNode,
    import: JobHandle,
}

impl Case {
    async fn in_conflict() -> Self {
        let (from, to) = (TestNode::start().await, TestNode::start().await);
        let dir = tempfile::tempdir().expect("a temporary directory");
        sample(&dir.path().join("source"));
        let target = dir.path().join("target");
        let offer = from.offer(&dir.path().join("source")).await;
        let limit = Some(Rate::new(2_000_000).expect("a rate"));
        let options = ImportOptions { consent: Consent::Given, limit, ..ImportOptions::new(&target) };
        let import = to.node.handle().import(offer.ticket.clone(), options).await.expect("started");
        sees(&import, "on its way", |view| view.payload_bytes > 0).await;
        file(&target, "mine", 5, 0o644);
        assert_eq!(failed(&import).await, Code::TargetConflict);
        assert_eq!(failed(&offer.job).await, Code::TargetConflict);
        assert_eq!(fs::read_dir(&target).expect("it is mine").count(), 1);
        assert_eq!(leftovers(dir.path()).len(), 1, "what arrived is kept");
        fs::remove_dir_all(&target).expect("moved away");
        Self { dir, from, to, import }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_something_stood_in_the_way_of_goes_on_when_that_is_gone_and_nothing_is_sent_again() {
    let case = Case::in_conflict().await;
    let offer = case.from.offer(&case.path("source")).await;
    let session = case.import.view().session_id.expect("a session");
    let job = case.to.node.handle().resume(session).await.expect("it goes on");
    assert_eq!(completed(&job).await.payload_bytes, 0);
    completed(&offer.job).await;
    assert_same(&case.path("source"), &case.path("target"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_another_tree_is_not_held_up_by_a_session_that_something_stood_in_the_way_of() {
    let case = Case::in_conflict().await;
    file(&case.path("other"), "another tree", 10, 0o644);
    let offer = case.from.offer(&case.path("other")).await;
    let job = case.to.import(&offer.ticket, &case.path("target")).await;
    completed(&job).await;
    assert_same(&case.path("other"), &case.path("target"));
}
