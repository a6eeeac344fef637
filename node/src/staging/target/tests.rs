//! Claims about what is refused before any data moves.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{Entry, ManifestBuilder, Node};
use me_sync_protocol::path::RelPath;
use me_sync_protocol::reason::Code;

use super::super::testing::{Place as Ground, SMALL, bind, is_root, manifest, tmpfs};
use super::*;

fn pin(path: &Path) -> Result<Target, PreflightError> {
    Target::pin(path, &TargetOptions::default())
}

fn refused(path: &Path) -> Code {
    pin(path).map(|t| t.path().to_owned()).unwrap_err().code()
}

fn one_file(path: &str, size: u64) -> Manifest {
    let mut builder = ManifestBuilder::new(None, None);
    let node = Node::File { size, sha256: Some(Digest([1; 32])) };
    builder.push(&Entry { path: RelPath::parse(path.to_owned()).unwrap(), node, mode: None, mtime: None }).unwrap();
    builder.finish().unwrap()
}

#[test]
fn an_ordinary_target_is_accepted_and_leaves_no_probe_behind() {
    let ground = Ground::with_old();
    let target = pin(&ground.target()).unwrap();
    assert!(target.exists() && !target.is_empty().unwrap());
    assert_eq!(target.old_tree(), OldTree { files: 1, dirs: 2, bytes: 9, complete: true });
    let facts = target.check_manifest(&manifest(SMALL)).unwrap();
    assert!(!facts.two_renames && facts.bytes_free >= facts.bytes_needed);
    assert_eq!((facts.modes.world_writable, facts.modes.special), (1, 1));
    assert_eq!(ground.names(), ["t"]);
    drop(target);
    let absent = pin(&ground.parent().join("new")).unwrap();
    assert!(!absent.exists() && absent.is_empty().unwrap());
}

// RELIABILITY F75
#[test]
fn a_symlink_is_resolved_once_and_stays() {
    let ground = Ground::with_old();
    let link = ground.tmp.path().join("link");
    symlink(ground.target(), &link).unwrap();
    let target = pin(&link).unwrap();
    assert_eq!(target.path(), ground.target().canonicalize().unwrap());
    ground.staged_at(target, 1, SMALL).seal(&mut |_| ()).unwrap().swap(&mut ()).unwrap();
    assert!(link.is_symlink() && link.join("run").exists() && ground.target().join("run").exists());
    let dangling = ground.tmp.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert_eq!(refused(&dangling), Code::TargetForbidden);
}

// RELIABILITY F75, A94
#[test]
fn what_must_never_be_replaced_is_forbidden() {
    let ground = Ground::with_old();
    let file = ground.parent().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(refused(&file), Code::TargetForbidden);
    assert_eq!(refused(Path::new("/")), Code::TargetForbidden);
    assert_eq!(refused(Path::new("")), Code::TargetForbidden);
    assert_eq!(refused(Path::new("/proc/self/root")), Code::TargetForbidden);
    assert_eq!(refused(&ground.parent().join("no/such/parent")), Code::TargetForbidden);
    assert_eq!(refused(&ground.parent().join(".me-sync-0123456789abcdef/x")), Code::TargetForbidden);
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from).filter(|h| h.is_dir()) {
        let code = refused(&home);
        assert!(matches!(code, Code::TargetForbidden), "{code}");
    }
    let exe = std::env::current_exe().unwrap();
    assert_eq!(refused(exe.parent().unwrap()), Code::TargetForbidden);
    // the caller's own places: equal, around, inside
    let guarded = ground.target().join("old");
    let options = TargetOptions { forbidden: vec![guarded.clone()], ..TargetOptions::default() };
    for path in [guarded.clone(), ground.target(), guarded.join("dir"), guarded.join("dir/new")] {
        assert_eq!(Target::pin(&path, &options).unwrap_err().code(), Code::TargetForbidden, "{}", path.display());
    }
    let hint = pin(Path::new("/")).unwrap_err().to_string();
    assert!(hint.contains("choose another directory"), "{hint}");
}

// RELIABILITY F76
#[test]
fn mount_points_and_what_contains_them_are_refused() {
    let ground = Ground::with_old();
    let Some(mounted) = tmpfs(&ground.target().join("old/dir"), "size=1m") else { return };
    let err = pin(&ground.target()).unwrap_err();
    assert_eq!(err.code(), Code::TargetContainsMount);
    assert!(err.to_string().contains("old/dir"), "{err}");
    assert_eq!(refused(&ground.target().join("old/dir")), Code::TargetIsMountpoint);
    assert!(pin(&ground.target().join("old/dir/sub")).is_ok(), "a subdirectory is what the hint says");
    drop(mounted);
    // F25: the same file system bound over itself has the same device number
    let other = ground.parent().join("other");
    fs::create_dir(&other).unwrap();
    let Some(_bound) = bind(&other, &ground.target().join("old/dir")) else { return };
    assert_eq!(refused(&ground.target().join("old/dir")), Code::TargetIsMountpoint);
    assert_eq!(refused(&ground.target()), Code::TargetContainsMount);
}

// RELIABILITY F26
#[test]
fn a_parent_that_cannot_be_written_is_refused_with_a_hint() {
    let ground = Ground::with_old();
    let readonly = if is_root() {
        let mount = tmpfs(&ground.parent(), "size=1m").unwrap();
        fs::create_dir(ground.target()).unwrap();
        rustix::mount::mount_remount(ground.parent(), rustix::mount::MountFlags::RDONLY, c"").unwrap();
        Some(mount)
    } else {
        fs::set_permissions(ground.parent(), fs::Permissions::from_mode(0o555)).unwrap();
        None
    };
    let err = pin(&ground.target()).unwrap_err();
    assert_eq!(err.code(), Code::TargetParentNotWritable);
    assert!(err.to_string().contains("make it writable or choose"), "{err}");
    drop(readonly);
    fs::set_permissions(ground.parent(), fs::Permissions::from_mode(0o755)).unwrap();
}

// RELIABILITY F18, F20
#[test]
fn too_little_space_and_too_few_inodes_are_refused_with_figures() {
    let ground = Ground::new();
    let Some(_mount) = tmpfs(&ground.parent(), "size=1m,nr_inodes=20") else { return };
    let target = pin(&ground.target()).unwrap();
    assert!(target.check_manifest(&one_file("f", 600 << 10)).is_ok(), "a small disk is usable");
    let err = target.check_manifest(&one_file("f", 4 << 20)).unwrap_err();
    assert_eq!(err.code(), Code::NoSpace);
    assert!(err.to_string().contains("free ") && err.to_string().contains("MiB"), "{err}");
    assert_eq!(target.check_manifest(&one_file("f", i64::MAX as u64)).unwrap_err().code(), Code::NoSpace);
    let mut many = ManifestBuilder::new(None, None);
    for n in 10..40 {
        let path = RelPath::parse(n.to_string()).unwrap();
        many.push(&Entry { path, node: Node::Dir, mode: None, mtime: None }).unwrap();
    }
    let err = target.check_manifest(&many.finish().unwrap()).unwrap_err();
    assert!(matches!(err, PreflightError::NoInodes { needed: 31, .. }), "{err}");
}

#[test]
fn a_path_too_long_for_this_place_is_refused_by_name() {
    let ground = Ground::new();
    let mut deep = ground.parent();
    while deep.as_os_str().len() < 3300 {
        deep.push("d".repeat(200));
        fs::create_dir(&deep).unwrap();
    }
    let target = pin(&deep.join("t")).unwrap();
    assert!(target.check_manifest(&one_file("short", 1)).is_ok());
    let long = vec!["e".repeat(200); 5].join("/");
    let mut builder = ManifestBuilder::new(None, None);
    for end in 1..=5 {
        let path = RelPath::parse(long[..end * 201 - 1].to_owned()).unwrap();
        builder.push(&Entry { path, node: Node::Dir, mode: None, mtime: None }).unwrap();
    }
    let err = target.check_manifest(&builder.finish().unwrap()).unwrap_err();
    assert_eq!(err.code(), Code::ManifestLimit);
}

// RELIABILITY F77
#[test]
fn a_process_that_uses_the_target_is_named() {
    let ground = Ground::with_old();
    let mut child = std::process::Command::new("sleep").arg("60").current_dir(ground.target()).spawn().unwrap();
    let facts = pin(&ground.target()).unwrap().check_manifest(&manifest(SMALL)).unwrap();
    let pid = child.id().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(facts.warnings.iter().any(|w| w.contains(&pid)), "{:?}", facts.warnings);
}

#[test]
fn probes_of_a_killed_run_are_swept_when_they_are_old() {
    let ground = Ground::with_old();
    let old = ground.parent().join(".me-sync-probe-0000000000000000");
    let young = ground.parent().join(".me-sync-probe-0000000000000001");
    fs::create_dir(&old).unwrap();
    fs::create_dir(&young).unwrap();
    fs::File::open(&old).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    pin(&ground.target()).unwrap();
    assert!(!old.exists() && young.exists());
}
