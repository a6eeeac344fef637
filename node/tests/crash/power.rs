//! Power cuts: ext4 on a loop file stops without writing anything out, is unmounted, mounted again (RELIABILITY
//! F10-F12). What only lived in the page cache is gone then.

use std::path::PathBuf;
use std::process::Command;

use crate::image;
use crate::site::{Site, Tree};
use crate::strace::{can_run, kill_at};

const FILES: usize = 200;
const MOST: u32 = 2000;

/// An ext4 that lasts as long as this; mount and loop device go with it.
#[derive(Debug)]
pub(crate) struct Disk {
    tmp: tempfile::TempDir,
    pub(crate) at: PathBuf,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let at = tmp.path().canonicalize().expect("resolved").join("mnt");
        std::fs::create_dir(&at).expect("made");
        let disk = Self { tmp, at };
        let file = std::fs::File::create(disk.file()).expect("created");
        file.set_len(48 << 20).expect("sized");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.file()));
        disk.mount();
        disk
    }

    fn file(&self) -> PathBuf {
        self.tmp.path().join("disk")
    }

    fn mount(&self) {
        // a device of its own for every boot: `-o loop` takes the one of the boot before again, if a mount namespace
        // that somebody made meanwhile still holds it
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(self.file()));
        let device = String::from_utf8(device).expect("a path");
        run(Command::new("mount").arg(device.trim()).arg(&self.at));
        // now that it is in use: it goes away with the mount
        run(Command::new("losetup").args(["-d", device.trim()]));
    }

    /// The power goes and comes back.
    fn cut(&self) {
        self.stop();
        self.start();
    }

    /// FS_IOC_SHUTDOWN without flushing even the log.
    pub(crate) fn stop(&self) {
        let script = "import fcntl,os,struct,sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run(Command::new("python3").args(["-c", script]).arg(&self.at));
    }

    /// The next boot. Nothing of the stopped disk may be open any more.
    pub(crate) fn start(&self) {
        run(Command::new("umount").arg(&self.at));
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.at).status().ok();
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A site on a disk of its own whose beginnings have long been written out.
fn site_on(disk: &Disk, standing: bool) -> Site {
    let site = Site::new(FILES, standing, Some(&disk.at));
    run(Command::new("sync").arg("-f").arg(&disk.at));
    site
}

/// What stands there after the cut, and after a restart without help.
fn survives(disk: &Disk, site: &Site, when: &str) -> (Tree, Tree) {
    disk.cut();
    let before = site.standing(when);
    (before, site.recovers(when))
}

fn cuts(point: &str, calls: &[&str], standing: bool) -> u32 {
    let mut cuts = 0;
    let disk = Disk::new();
    for call in calls {
        for n in 1..MOST {
            let when = format!("power cut at {call} {n} of {point}, standing {standing}");
            std::fs::remove_dir_all(disk.at.join("p")).ok();
            std::fs::remove_dir_all(disk.at.join("state")).ok();
            let site = site_on(&disk, standing);
            let end = site.migrate_traced_from(point, &kill_at(call, n), None);
            let killed = end.was_killed();
            assert!(killed || end.status.success(), "{when}: {} {}", end.stdout, end.stderr);
            let (before, after) = survives(&disk, &site, &when);
            cuts += 1;
            if !killed {
                // success was reported, so it must have been on the disk
                assert_eq!((before, after), (Tree::New, Tree::New), "{when}");
                break;
            }
        }
    }
    cuts
}

#[test]
fn a_power_cut_at_any_boundary_of_a_replacement_leaves_the_old_or_the_new_tree_whole() {
    if can_run() {
        // one run each; syncfs, Verified and Committed; then intent, exchange, flush, Swapped
        assert!(cuts("seal", &["syncfs", "fsync"], true) + cuts("swap", &["renameat2", "fsync", "renameat"], true) > 8);
    }
}

#[test]
fn a_power_cut_at_any_boundary_of_a_creation_leaves_nothing_or_the_new_tree_whole() {
    if can_run() {
        assert!(cuts("swap", &["renameat2", "fsync"], false) > 4);
    }
}

fn migrated(disk: &Disk, skip: bool) -> Site {
    let mut site = site_on(disk, true);
    if skip {
        site = site.env("ME_SYNC_TEST_SKIP_SYNCFS", "1");
    }
    let end = site.migrate(None);
    assert!(end.status.success(), "{} {}", end.stdout, end.stderr);
    site
}

// RELIABILITY F11: without this test nobody knows that the others can fail
#[test]
fn without_the_flush_before_the_swap_the_same_cut_is_seen_to_destroy_the_tree() {
    if !can_run() {
        return;
    }
    let disk = Disk::new();
    let site = migrated(&disk, true);
    disk.cut();
    let now = image::read(&site.target());
    // `judge` is what every other test here rests on
    let short = image::short_files(&site.new, &now);
    assert_eq!(site.judge(&now), None, "the checker saw nothing; is the binary built with the feature test-hooks?");
    assert!(short > FILES / 2, "{short} of {FILES} files are short");
}

#[test]
fn with_the_flush_a_reported_success_survives_the_cut() {
    if !can_run() {
        return;
    }
    let disk = Disk::new();
    let site = migrated(&disk, false);
    assert_eq!(survives(&disk, &site, "cut after success"), (Tree::New, Tree::New));
}
