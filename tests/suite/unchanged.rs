//! A migration of what is there already: read, compared to the last bit, and left where it is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::tree::{assert_same, file, sample};
use crate::support::{TestNode, completed, leftovers, migrate};
use me_sync_node::Completion;
use me_sync_node::staging::{StateDir, rollback};

struct Case {
    dir: tempfile::TempDir,
    from: TestNode,
    to: TestNode,
}

impl Case {
    /// The sample tree has arrived where another one stood.
    async fn arrived() -> Self {
        let case = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            from: TestNode::start().await,
            to: TestNode::start().await,
        };
        sample(&case.path("source"));
        file(&case.path("target"), "old", 10, 0o644);
        assert!(!case.again().await.unchanged);
        case
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn again(&self) -> Completion {
        let (out, into) = migrate(&self.from, &self.to, &self.path("source"), &self.path("target")).await;
        completed(&out).await;
        let done = completed(&into).await;
        assert_same(&self.path("source"), &self.path("target"));
        done
    }

    fn kept(&self) -> usize {
        leftovers(self.dir.path()).len()
    }
}

fn inode(at: &Path) -> u64 {
    fs::metadata(at).expect("it is there").ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_stays_with_no_copy_of_it_and_the_migration_before_can_be_undone() {
    let case = Case::arrived().await;
    let (standing, kept) = (inode(&case.path("target")), case.kept());
    let done = case.again().await;
    assert!(done.unchanged && done.retained.is_none() && done.payload_bytes == 0, "{done:?}");
    assert_eq!((inode(&case.path("target")), case.kept()), (standing, kept));
    let state = StateDir::open(case.to.state_dir()).expect("opened");
    rollback(&state, &case.path("target")).expect("the first one is undone");
    assert!(case.path("target/old").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_differs_is_replaced_and_the_old_tree_kept() {
    let case = Case::arrived().await;
    file(&case.path("source"), "one more", 100, 0o644);
    assert!(!case.again().await.unchanged);
    let target = case.path("target");
    let one = target.join("one more");
    let changes: [(&str, &dyn Fn()); 6] = [
        ("a mode", &|| fs::set_permissions(&one, fs::Permissions::from_mode(0o600)).expect("changed")),
        ("a time", &|| drop(fs::File::open(&one).map(|f| f.set_modified(std::time::UNIX_EPOCH)))),
        ("a second name", &|| fs::hard_link(&one, case.path("elsewhere")).expect("linked")),
        ("an extra", &|| fs::write(target.join("extra"), "x").expect("written")),
        ("an extra link", &|| symlink("x", target.join("link of mine")).expect("linked")),
        ("bytes under the same size and time", &|| {
            let before = fs::metadata(&one).and_then(|m| m.modified()).expect("it has a time");
            fs::write(&one, vec![1; 100]).expect("written");
            drop(fs::File::options().write(true).open(&one).map(|f| f.set_modified(before)));
        }),
    ];
    for (what, change) in changes {
        change();
        let (standing, kept) = (inode(&target), case.kept());
        let done = case.again().await;
        assert!(!done.unchanged && done.retained.is_some(), "{what}: {done:?}");
        assert!(inode(&target) != standing && case.kept() == kept + 1, "{what}");
        fs::remove_file(case.path("elsewhere")).ok();
    }
    assert!(case.again().await.unchanged);
}
