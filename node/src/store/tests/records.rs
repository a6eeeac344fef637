#![expect(clippy::print_stderr, reason = "the numbers are what the run was for")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use super::*;

#[test]
fn what_was_stored_is_there_after_the_store_was_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let store = Store::open(&state).unwrap();
    let empty = Content { imports: vec![], exports: vec![], durable: vec![], failures: vec![], ports: vec![] };
    assert_eq!(Content::of(&store).unwrap(), empty);
    store.put_import(&import(1)).unwrap();
    store.put_import(&import(2)).unwrap();
    store.put_import(&ImportRecord { files_ok: 4, manifest: None, ..import(2) }).unwrap();
    store.put_export(&export(3, false)).unwrap();
    store.put_export(&export(4, true)).unwrap();
    store.mark_durable(session(1), &stamps([999, 1000, 7])).unwrap();
    store.put_failures(session(1), &[failure(5), failure(2)]).unwrap();
    let ports = [ListenPort { ipv6: true, quic: true, port: 4001 }, ListenPort { ipv6: false, quic: false, port: 1 }];
    store.put_ports(&ports).unwrap();
    let wanted = Content {
        imports: vec![import(1), ImportRecord { files_ok: 4, manifest: None, ..import(2) }],
        exports: vec![export(3, false), export(4, true)],
        durable: stamps([7, 999, 1000]),
        failures: vec![failure(2), failure(5)],
        ports: ports.to_vec(),
    };
    assert_eq!(Content::of(&store).unwrap(), wanted);
    store.close().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join(STORE_FILE))), (0o700, 0o600));
    let store = Store::open(&state).unwrap();
    assert_eq!(Content::of(&store).unwrap(), wanted);
    assert_eq!(store.import(session(2)).unwrap(), Some(wanted.imports[1].clone()));
    assert_eq!(store.export(TicketId([4; 16])).unwrap(), Some(export(4, true)));
    assert_eq!(store.export_of(session(4)).unwrap(), Some(export(4, true)));
    assert_eq!((store.import(session(3)).unwrap(), store.export_of(session(3)).unwrap()), (None, None));
}

#[test]
fn a_removed_session_leaves_nothing_of_it_and_all_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for n in [1, 2] {
        store.put_import(&import(n)).unwrap();
        store.put_export(&export(n, true)).unwrap();
        store.mark_durable(session(n), &stamps(0..2500)).unwrap();
        store.put_failures(session(n), &[failure(1)]).unwrap();
    }
    for _ in 0..2 {
        store.remove_import(session(1)).unwrap();
        store.remove_export(TicketId([1; 16])).unwrap();
    }
    let left = Content::of(&store).unwrap();
    assert_eq!((left.imports, left.exports), (vec![import(2)], vec![export(2, true)]));
    assert_eq!((left.durable, left.failures), (vec![], vec![]));
    assert_eq!(store.durable(session(2)).unwrap().len(), 2500);
    assert_eq!(store.failures(session(2)).unwrap(), [failure(1)]);
}

#[test]
fn an_import_at_its_end_keeps_its_failures_and_needs_no_durable_entries() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.mark_durable(session(1), &stamps(0..10)).unwrap();
    store.put_failures(session(1), &[failure(1)]).unwrap();
    store.put_import(&ImportRecord { state: SessionStatus::Failed, ..import(1) }).unwrap();
    assert_eq!(store.durable(session(1)).unwrap().len(), 10);
    store.put_import(&ImportRecord { state: SessionStatus::Ended, ..import(1) }).unwrap();
    assert_eq!((store.durable(session(1)).unwrap().len(), store.failures(session(1)).unwrap().len()), (0, 1));
}

#[test]
fn the_list_of_failures_is_replaced_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let many: Vec<_> = (0..11_000).map(failure).collect();
    store.put_failures(session(1), &many).unwrap();
    assert_eq!(store.failures(session(1)).unwrap(), many[..MAX_FAILURES]);
    store.put_failures(session(1), &[failure(3)]).unwrap();
    assert_eq!(store.failures(session(1)).unwrap(), [failure(3)]);
}

#[test]
fn no_secret_is_printed() {
    let text = format!("{:?} {:?} {:?}", import(1), export(2, true), Write::PutImport(Box::new(import(1))));
    let secret = String::from_utf8_lossy(&SECRET);
    assert!(!text.contains(&*secret) && !text.contains(&format!("{SECRET:?}")), "{text}");
}

#[test]
fn a_record_of_a_later_version_with_more_fields_is_read() {
    let bytes = encode(&import(1));
    let mut decoder = minicbor::Decoder::new(&bytes);
    let fields = decoder.map().unwrap().unwrap();
    let mut longer = minicbor::Encoder::new(Vec::new());
    longer.map(fields + 1).unwrap();
    let mut longer = longer.into_writer();
    longer.extend_from_slice(&bytes[decoder.position()..]);
    minicbor::encode(99u32, &mut longer).unwrap();
    minicbor::encode(["of", "tomorrow"], &mut longer).unwrap();
    assert_eq!(decode::<ImportRecord>(&longer).unwrap(), import(1));
}

#[test]
fn durable_entries_are_a_set_with_the_latest_stamp_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = session(1);
    store.mark_durable(id, &stamps((0..5000).rev())).unwrap();
    store.mark_durable(id, &stamps(4000..6000)).unwrap();
    store
        .mark_durable(id, &[(EntryIndex(3), [1; 16]), (EntryIndex(3), [2; 16]), (EntryIndex(u32::MAX), [3; 16])])
        .unwrap();
    store.mark_durable(id, &[]).unwrap();
    store.forget_durable(id, &[4, 5999, 77_777].map(EntryIndex)).unwrap();
    let mut wanted = stamps((0..5999).filter(|n| *n != 4));
    wanted[3].1 = [2; 16];
    wanted.push((EntryIndex(u32::MAX), [3; 16]));
    assert_eq!(store.durable(id).unwrap(), wanted);
    let all: Vec<_> = wanted.iter().map(|(index, _)| *index).collect();
    store.forget_durable(id, &all).unwrap();
    assert_eq!(store.durable(id).unwrap(), []);
}

// RELIABILITY F13
#[test]
fn a_million_durable_entries_are_stored_in_16_mib_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = session(1);
    store.put_import(&import(1)).unwrap();
    let began = Instant::now();
    // checkpoints of four lanes that go through the tree side by side
    for checkpoint in 0..20u32 {
        let lanes = (0..4u32).flat_map(|lane| {
            let from = lane * 250_000 + checkpoint * 12_500;
            from..from + 12_500
        });
        store.mark_durable(id, &stamps(lanes)).unwrap();
    }
    let wrote = began.elapsed();
    let began = Instant::now();
    let all = store.durable(id).unwrap();
    let read = began.elapsed();
    assert!(all.len() == 1_000_000 && all.iter().zip(0..).all(|(have, n)| *have == (EntryIndex(n), stamp(n))));
    store.close().unwrap();
    let size = std::fs::metadata(dir.path().join(STORE_FILE)).unwrap().len();
    let began = Instant::now();
    let store = Store::open(dir.path()).unwrap();
    let opened = began.elapsed();
    eprintln!("wrote in {wrote:?} (20 commits), read in {read:?}, opened in {opened:?}, {} KiB", size >> 10);
    assert!(size < 40 << 20, "{size}");
    drop(store);
}
