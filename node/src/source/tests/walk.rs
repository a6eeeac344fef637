use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use me_sync_protocol::manifest::{Mtime, Node};
use me_sync_protocol::reason::Code;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, inotify, mkfifoat, utimensat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

fn walked(source: &Source) -> Vec<String> {
    let mut path = String::new();
    let count = u32::try_from(source.tree.records().len()).unwrap();
    (0..count)
        .map(|index| {
            source.tree.path(index, &mut path);
            path.clone()
        })
        .collect()
}

#[test]
fn entries_come_in_the_byte_order_of_whole_paths() {
    let ground = Ground::new();
    // '!' '-' '.' sort before '/', '0' after it
    for name in ["a/x", "a/-/y", "a-/b", "a--", "a-b", "a.txt", "a!/q/r", "a!!", "a0", "a/x.d/z", "ab", "é", "A", "🗂/f"]
    {
        ground.file(name, "x");
    }
    let source = ground.scan().unwrap();
    let walked = walked(&source);
    let mut sorted = walked.clone();
    sorted.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(walked, sorted);
    assert_eq!(walked.len(), 14 + 7);
    // the builder refuses disorder, so that it takes them all is the second proof
    assert_eq!(paths(snapshot_of(source).manifest()), sorted);
}

#[test]
fn odd_names_and_empty_directories_arrive_as_they_are() {
    let ground = Ground::new();
    let names = ["-rf", "~", "$(x)", "*", "a\\..\\b", "...", " ", "\u{202e}x", "CON", "x:y", &"n".repeat(255)];
    for name in names {
        ground.file(name, name);
    }
    fs::create_dir_all(ground.root.join("empty/er")).unwrap();
    let snapshot = ground.snapshot();
    for name in names {
        assert_eq!(serve(&snapshot, name).unwrap(), name.as_bytes());
    }
    assert!(snapshot.manifest().find("empty/er").is_some());
    assert_eq!(snapshot.manifest().counts().dirs, 2);
}

#[test]
fn a_symlink_in_the_source_is_never_followed() {
    let ground = Ground::new();
    ground.file("d/inside", "x");
    for (name, target) in [("dangling", "nowhere"), ("up", "../outside"), ("file", "../outside/f"), ("loop", "loop")] {
        symlink(target, ground.root.join(name)).unwrap();
    }
    symlink("d", ground.root.join("dir")).unwrap();
    let snapshot = ground.snapshot();
    assert_eq!(paths(snapshot.manifest()), ["d", "d/inside", "dangling", "dir", "file", "loop", "up"]);
    let up = snapshot.manifest().entry(index_of(&snapshot, "up")).unwrap();
    assert_eq!(up.node, Node::Symlink { target: "../outside".into() });
    assert_eq!((up.mode, up.mtime.is_some()), (None, true));
    assert!(matches!(snapshot.reader().open(index_of(&snapshot, "file")), Err(ReadError::NotAFile { .. })));
}

// RELIABILITY F44
#[test]
fn fifos_and_sockets_are_left_out_counted_and_never_opened() {
    let ground = Ground::new();
    ground.file("file", "x");
    mkfifoat(CWD, ground.root.join("pipe"), Mode::RUSR).unwrap();
    let _listener = UnixListener::bind(ground.root.join("socket")).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, &ground.root, inotify::WatchFlags::OPEN).unwrap();

    let source = ground.scan().unwrap();
    let special = source.summary().skipped.special_kinds;
    assert_eq!((special.fifos, special.sockets, special.devices), (1, 1, 0));
    assert_eq!(source.summary().skipped.special.names, ["pipe (named pipe)", "socket (socket)"]);
    assert_eq!(paths(snapshot_of(source).manifest()), ["file"]);

    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let mut opened = Vec::new();
    while let Ok(event) = events.next() {
        opened.extend(event.file_name().map(|name| name.to_str().unwrap().to_owned()));
    }
    assert_eq!(opened, ["file"]);
}

// RELIABILITY F48
#[test]
fn names_no_manifest_can_hold_are_refused_by_name_or_left_out() {
    let ground = Ground::new();
    ground.file("good", "x");
    ground.file("Icon\r", "x");
    fs::write(ground.root.join(OsStr::from_bytes(b"latin\xe9")), "x").unwrap();
    fs::create_dir(ground.root.join("esc\u{1b}[2J")).unwrap();
    fs::write(ground.root.join("esc\u{1b}[2J/below"), "x").unwrap();
    symlink(OsStr::from_bytes(b"to\xff"), ground.root.join("link")).unwrap();

    let err = ground.scan().unwrap_err();
    assert_eq!(err.code(), Code::PathInvalid);
    assert!(err.hint().unwrap().contains("--skip-unsupported"));
    let text = err.to_string();
    assert!(text.starts_with("4 entries"), "{text}");
    for part in ["Icon\\u{d}", "latin\u{fffd} (the path is not UTF-8)", "esc\\u{1b}[2J", "link"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains('\u{1b}'));

    let options = ScanOptions { skip_unsupported: true, ..Default::default() };
    let snapshot = snapshot_of(Source::scan(&ground.root, &options).unwrap());
    assert_eq!(paths(snapshot.manifest()), ["good"]);
    assert_eq!(snapshot.skipped().unsupported.count, 4);
}

#[test]
fn only_the_first_twenty_names_are_listed() {
    let ground = Ground::new();
    for n in 0..25 {
        ground.file(&format!("bad\n{n:02}"), "x");
    }
    let text = ground.scan().unwrap_err().to_string();
    assert!(text.contains("bad\\u{a}19") && !text.contains("bad\\u{a}20"), "{text}");
    assert!(text.ends_with("… and 5 more"), "{text}");
}

// RELIABILITY F41
#[test]
fn unreadable_entries_are_refused_by_name_or_left_out_with_all_below() {
    let ground = Ground::new();
    ground.file("ok", "x");
    chmod(&ground.file("secret", "x"), 0o000);
    ground.file("closed/below/deep", "x");
    chmod(&ground.root.join("closed"), 0o000);
    ground.file("unsearchable/file", "x");
    chmod(&ground.root.join("unsearchable"), 0o444);

    let (err, snapshot) = as_ordinary_user(|| {
        let options = ScanOptions { skip_unreadable: true, ..Default::default() };
        (ground.scan().unwrap_err(), snapshot_of(Source::scan(&ground.root, &options).unwrap()))
    });
    for dir in ["closed", "unsearchable"] {
        chmod(&ground.root.join(dir), 0o755);
    }
    assert_eq!(err.code(), Code::SourceUnreadable);
    assert!(err.hint().unwrap().contains("--skip-unreadable"));
    let text = err.to_string();
    for name in ["3 entries", "secret", "closed", "unsearchable/file", "Permission denied"] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(paths(snapshot.manifest()), ["ok", "unsearchable"]);
    assert_eq!(snapshot.skipped().unreadable.count, 3);
}

#[test]
fn what_one_flag_leaves_out_does_not_show_in_the_error_about_the_other() {
    let ground = Ground::new();
    chmod(&ground.file("secret", "x"), 0o000);
    ground.file("bad\n", "x");
    let options = ScanOptions { skip_unsupported: true, ..Default::default() };
    let err = as_ordinary_user(|| Source::scan(&ground.root, &options).unwrap_err());
    assert!(!err.to_string().contains("bad") && !err.hint().unwrap().contains("unsupported"), "{err}");
}

#[test]
fn sources_that_are_no_tree_are_refused_by_name() {
    let ground = Ground::new();
    let err = Source::scan(&ground.root.join("missing"), &ScanOptions::default()).unwrap_err();
    assert!(matches!(err, SourceError::NotFound { .. }), "{err}");
    mkfifoat(CWD, ground.root.join("pipe"), Mode::RUSR).unwrap();
    let err = Source::scan(&ground.root.join("pipe"), &ScanOptions::default()).unwrap_err();
    assert!(matches!(err, SourceError::NotATree { .. }), "{err}");
    chmod(&ground.root, 0o000);
    let err = as_ordinary_user(|| Source::scan(&ground.root, &leave_out_all()).unwrap_err());
    chmod(&ground.root, 0o755);
    assert!(matches!(err, SourceError::RootUnreadable { .. }), "{err}");
    assert_eq!(err.code(), Code::SourceUnreadable);
}

#[test]
fn a_single_file_is_a_tree_of_one_entry() {
    let ground = Ground::new();
    let file = ground.file("one", "content");
    ground.file("other", "x");
    symlink(&file, ground.outside.join("link")).unwrap();
    for given in [file, ground.outside.join("link")] {
        let source = Source::scan(&given, &ScanOptions::default()).unwrap();
        assert!(source.summary().root_is_file);
        let snapshot = snapshot_of(source);
        assert_eq!(paths(snapshot.manifest()), ["one"]);
        let header = snapshot.manifest().header();
        assert_eq!((header.root_mode, header.root_mtime), (None, None));
        assert_eq!(serve(&snapshot, "one").unwrap(), b"content");
    }
}

#[test]
fn a_symlink_given_as_the_root_is_resolved_once() {
    let ground = Ground::new();
    ground.file("f", "inside");
    let link = ground.dir.path().join("link");
    symlink("root", &link).unwrap();
    let snapshot = snapshot_of(Source::scan(&link, &ScanOptions::default()).unwrap());
    fs::remove_file(&link).unwrap();
    symlink("outside", &link).unwrap();
    assert_eq!(serve(&snapshot, "f").unwrap(), b"inside");
    assert_eq!(snapshot.root(), fs::canonicalize(&ground.root).unwrap());
}

#[test]
fn modes_and_times_are_kept_to_the_last_bit_and_nanosecond() {
    let ground = Ground::new();
    chmod(&ground.file("d/f", "x"), 0o4751);
    chmod(&ground.root.join("d"), 0o1770);
    chmod(&ground.root, 0o750);
    symlink("f", ground.root.join("d/l")).unwrap();
    let times = [("d/f", -1, 999_999_999), ("d/l", -86_400, 1), ("d", 0, 0), ("", 4_102_444_800, 123_456_789)];
    for (path, tv_sec, tv_nsec) in times {
        let at = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: at, last_modification: at };
        utimensat(CWD, ground.root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let snapshot = ground.snapshot();
    let manifest = snapshot.manifest();
    for (path, secs, nanos) in times {
        let nanos = u32::try_from(nanos).unwrap();
        let mtime = match path {
            "" => manifest.header().root_mtime,
            path => manifest.entry(index_of(&snapshot, path)).unwrap().mtime,
        };
        assert_eq!(mtime, Some(Mtime::from_unix(secs, nanos)), "{path}");
        assert_eq!(mtime.unwrap().to_unix(), (secs, nanos), "{path}");
    }
    let mode = |path| manifest.entry(index_of(&snapshot, path)).unwrap().mode;
    assert_eq!((mode("d/f"), mode("d"), manifest.header().root_mode), (Some(0o4751), Some(0o1770), Some(0o750)));
}

fn leave_file_handles(most: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
}

#[test]
fn a_tree_64_deep_is_walked_hashed_and_served_with_128_file_handles() {
    if !is_own_process() {
        return again_in_a_process(&[]);
    }
    leave_file_handles(128);
    let ground = Ground::new();
    let deep = vec!["d"; 63].join("/");
    ground.file(&format!("{deep}/f"), "deep");
    for n in 0..300 {
        ground.file(&format!("wide{n}/f"), "x");
    }
    let snapshot = Arc::new(hash_with(ground.scan().unwrap(), 8).unwrap());
    assert_eq!(serve(&snapshot, &format!("{deep}/f")).unwrap(), b"deep");
    let mut readers: Vec<_> = (0..4).map(|_| snapshot.reader()).collect();
    for index in snapshot.manifest().indices() {
        if snapshot.manifest().entry(index).unwrap().is_file() {
            readers.iter_mut().for_each(|reader| drop(reader.open(index).unwrap()));
        }
    }
}

// RELIABILITY F31
#[test]
fn running_out_of_file_handles_is_an_error_and_never_a_file_left_out() {
    if !is_own_process() {
        return again_in_a_process(&[]);
    }
    let ground = Ground::new();
    ground.file(&format!("{}/f", vec!["d"; 40].join("/")), "deep");
    let held: Vec<_> = (0..2).map(|_| Source::scan(&ground.root, &leave_out_all()).unwrap()).collect();
    leave_file_handles(30);
    let err = Source::scan(&ground.root, &leave_out_all()).unwrap_err();
    assert!(matches!(err, SourceError::Io { .. }), "{err}");
    assert_eq!(err.code(), Code::IoError);
    // while hashing
    leave_file_handles(0);
    for source in held {
        let err = hash_with(source, 1).unwrap_err();
        assert!(matches!(err, SourceError::Io { .. }), "{err}");
    }
}

#[test]
fn a_file_system_mounted_below_the_root_belongs_to_the_tree() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        #[expect(clippy::print_stderr, reason = "says why nothing was tested")]
        {
            eprintln!("not root: nothing can be mounted");
        }
        return;
    }
    if !is_own_process() {
        return again_in_a_process(&["unshare", "--mount"]);
    }
    let ground = Ground::new();
    ground.file("a", "below");
    fs::create_dir(ground.root.join("m")).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", ground.root.join("m"), "tmpfs", none, c"size=1m").unwrap();
    ground.file("m/in/f", "mounted");
    ground.file("z", "below");
    let snapshot = ground.snapshot();
    assert_eq!(paths(snapshot.manifest()), ["a", "m", "m/in", "m/in/f", "z"]);
    for (path, text) in [("a", "below"), ("m/in/f", "mounted"), ("z", "below")] {
        assert_eq!(serve(&snapshot, path).unwrap(), text.as_bytes());
    }
}

#[test]
fn a_tree_65_deep_is_refused_by_name() {
    let ground = Ground::new();
    ground.file(&format!("{}/f", vec!["d"; 64].join("/")), "x");
    let err = ground.scan().unwrap_err();
    assert!(err.to_string().contains("deeper than 64"), "{err}");
    let snapshot = snapshot_of(Source::scan(&ground.root, &leave_out_all()).unwrap());
    assert_eq!(snapshot.manifest().len(), 64);
}

// RELIABILITY A61
#[test]
fn a_directory_swapped_for_a_symlink_during_the_walk_never_leads_outside() {
    let ground = Ground::new();
    ground.file("a/inside", "x");
    symlink(&ground.outside, ground.root.join("b")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    super::read::while_swapping(&ground.root, "a", "b", 2000, || {
        let source = Source::scan(&ground.root, &leave_out_all()).unwrap();
        seen.extend(walked(&source));
        seen.contains("a/inside") && seen.contains("b/inside")
    });
    let known = ["a", "a/inside", "b", "b/inside"];
    assert!(seen.iter().all(|path| known.contains(&path.as_str())), "{seen:?}");
}
