//! Claims about a staging tree that was begun by an outline (SPEC §5.10).

use std::fs;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64};

use me_sync_protocol::ids::Digest;
use me_sync_protocol::manifest::{ManifestBuilder, Node};

use super::super::testing::{Place as Ground, SMALL, files, fill, fill_one, indices, manifest, survey};
use super::super::{FileStamp, TargetOptions, spool};
use super::*;

const DEEP: EntryIndex = EntryIndex(2);
const RUN: EntryIndex = EntryIndex(6);

fn outline_of(sealed: &Manifest) -> Arc<Manifest> {
    let mut builder = ManifestBuilder::outline(sealed.header().root_mode, sealed.header().root_mtime);
    for (_, mut entry) in sealed.entries() {
        if let Node::File { size: 1.., sha256 } = &mut entry.node {
            *sha256 = None;
        }
        builder.push(&entry).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

/// Session 1 by the outline of [`SMALL`], with nothing in it but directories.
fn begun(ground: &Ground) -> Staging {
    let outline = outline_of(&manifest(SMALL));
    let staging = Staging::create(ground.pin(), outline, SessionId([1; 16]), &ground.state, SessionInfo::default());
    staging.unwrap().with_dirs()
}

fn reuse(ground: &Ground, staging: &Staging) -> Vec<EntryIndex> {
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    indices(&staging.reuse(&ground.state, NonZeroUsize::MIN, &stop, &read).unwrap())
}

#[test]
fn a_tree_by_an_outline_is_applied_once_it_goes_by_what_seals_it() {
    let ground = Ground::new();
    let staging = begun(&ground);
    fill(&staging, SMALL);
    let staging = staging.adopt(manifest(SMALL), &[]).unwrap();
    let sealed = staging.seal(&mut |_| ()).unwrap();
    assert_eq!(sealed.manifest_sha256(), manifest(SMALL).sha256());
    sealed.swap(&mut ()).unwrap().commit().unwrap();
}

#[test]
fn of_an_outline_nothing_counts_after_a_restart_and_nothing_is_lost() {
    let ground = Ground::new();
    let staging = begun(&ground);
    fill_one(&staging, SMALL, DEEP);
    let mut begun = staging.writer().create(RUN).unwrap();
    begun.write(b"#!/b").unwrap();
    begun.suspend().unwrap();
    // whatever a ledger says
    let durable = vec![(DEEP, FileStamp::from_bytes([3; 16]))];
    staging.suspend();
    let staging = Staging::reopen(&ground.state, SessionId([1; 16]), &TargetOptions::default(), durable).unwrap();
    assert!(staging.manifest().is_outline());
    let (found, read) = survey(&staging);
    assert_eq!((found.ok.len(), found.partial.len(), found.dropped, read), (0, 0, 0, 0));
    assert_eq!(reuse(&ground, &staging), []);
    let staging = staging.adopt(manifest(SMALL), &[]).unwrap();
    let (found, _) = survey(&staging);
    assert_eq!((indices(&found.ok), found.dropped), (vec![DEEP], 0));
    assert_eq!(found.partial.iter().map(|p| (p.index(), p.offset())).collect::<Vec<_>>(), [(RUN, 4)]);
    let mut rest = staging.writer().resume(RUN, 4).unwrap();
    rest.write(b"in/sh\n").unwrap();
    rest.finish().unwrap();
    fill_one(&staging, SMALL, EntryIndex(4));
    ground.applies(staging);
}

#[test]
fn a_predecessor_is_not_used_up_by_an_outline_and_gives_its_files_to_the_sealed_tree() {
    let ground = Ground::new();
    ground.staged(2, SMALL).suspend();
    let staging = begun(&ground);
    assert_eq!(reuse(&ground, &staging), []);
    assert_eq!(staging.predecessors(&ground.state).unwrap(), [SessionId([2; 16])]);
    let staging = staging.adopt(manifest(SMALL), &[]).unwrap();
    assert_eq!(reuse(&ground, &staging), files(SMALL));
    ground.applies(staging);
}

#[test]
fn what_a_process_leaves_in_the_middle_of_sealing_is_the_outline_or_the_sealed_manifest() {
    let sealed = manifest(SMALL);
    let ground = Ground::new();
    let staging = begun(&ground);
    fill_one(&staging, SMALL, DEEP);
    // it died before the journal named the other
    let dir = fs::File::open(ground.records(1)).unwrap().into();
    spool::write_sealed(&dir, &ground.records(1), &sealed).unwrap();
    fs::write(ground.records(1).join("manifest.tmp"), "half of something").unwrap();
    staging.suspend();
    let staging = ground.reopen(1).unwrap();
    assert_eq!(staging.manifest().sha256(), outline_of(&sealed).sha256());
    let outline = fs::read(ground.records(1).join("manifest")).unwrap();
    drop(staging.adopt(sealed.clone(), &[]).unwrap());
    assert!(!ground.records(1).join("manifest").exists());
    // nor does a copy of the journal that is damaged lead back
    for copy in ["journal.a", "journal.b"] {
        let path = ground.records(1).join(copy);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[1..]).unwrap();
        let staging = ground.reopen(1).unwrap();
        assert_eq!(staging.manifest().sha256(), sealed.sha256(), "{copy}");
        staging.suspend();
    }
    // it died before the outline was removed
    fs::write(ground.records(1).join("manifest"), outline).unwrap();
    let staging = ground.reopen(1).unwrap();
    assert_eq!(staging.manifest().sha256(), sealed.sha256());
    assert_eq!(indices(&survey(&staging).0.ok), [DEEP]);
    fill_one(&staging, SMALL, EntryIndex(4));
    fill_one(&staging, SMALL, RUN);
    ground.applies(staging);
    assert_eq!(
        fs::read_dir(ground.records(1))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("manifest"))
            .count(),
        0
    );
}

#[test]
fn a_manifest_that_does_not_seal_the_outline_changes_nothing() {
    let ground = Ground::new();
    let sealed = manifest(SMALL);
    let mut staging = begun(&ground);
    fill_one(&staging, SMALL, DEEP);
    for other in [outline_of(&sealed), manifest(&SMALL[..6])] {
        let Err((same, err)) = staging.adopt(other, &[]) else { panic!("adopted") };
        assert_eq!(err.code(), Code::StateCorrupt);
        staging = *same;
    }
    // one that seals it with other hashes is as good as any: what is right is for the caller to say
    let other = outline_of(&sealed).seal(vec![Digest([1; 32]); SMALL.len()].into()).unwrap();
    let staging = staging.adopt(Arc::new(other), &[DEEP]).unwrap();
    let Err((staging, _)) = staging.adopt(sealed, &[]) else { panic!("sealed twice") };
    fill_one(&staging, SMALL, DEEP);
}

#[test]
fn a_file_that_is_lost_by_the_seal_is_written_once_more() {
    let ground = Ground::new();
    let staging = begun(&ground);
    fill(&staging, SMALL);
    assert!(staging.writer().create(DEEP).is_err(), "it is finished");
    let staging = staging.adopt(manifest(SMALL), &[DEEP]).unwrap();
    fill_one(&staging, SMALL, DEEP);
    ground.applies(staging);
}
