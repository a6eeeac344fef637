//! Power cuts: a disk that keeps what was flushed, and of later writes any part in any order.

#![expect(clippy::print_stderr, reason = "the numbers are what the run was for")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Flush,
}

/// Remembers every step of a database file.
#[derive(Debug)]
struct Recorder {
    file: InMemoryBackend,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Recorder {
    fn note(&self, step: Step) {
        self.steps.lock().unwrap().push(step);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.note(Step::Length(len));
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.note(Step::Flush);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.note(Step::Write(offset, data.to_vec()));
        self.file.write(offset, data)
    }
}

fn play(image: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, data) => {
            let at = usize::try_from(*at).unwrap();
            image.resize(image.len().max(at + data.len()), 0);
            image[at..at + data.len()].copy_from_slice(data);
        }
        Step::Length(len) => image.resize(usize::try_from(*len).unwrap(), 0),
        Step::Flush => {}
    }
}

/// Part of a step, as a disk that lost power in the middle may have it: whole sectors.
fn part(step: &Step, random: &mut u64) -> Option<Step> {
    let mut draw = || {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*random >> 40).unwrap()
    };
    match (draw() % 3, step) {
        (0, _) => None,
        (1, Step::Write(at, data)) if data.len() > 512 => {
            let cut = 512 * (1 + draw() % (data.len() / 512));
            Some(Step::Write(*at, data[..cut.min(data.len())].to_vec()))
        }
        (_, step) => Some(step.clone()),
    }
}

// RELIABILITY F13
#[test]
fn a_power_cut_at_any_moment_leaves_every_finished_write_and_no_part_of_another() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { file: InMemoryBackend::new(), steps: Arc::clone(&steps) };
    let db = redb::Builder::new().set_cache_size(CACHE).create_with_backend(recorder).unwrap();
    let mut store = Store { db, path: "recorded".into() };
    store.write(lay_out).unwrap();
    let change: [fn(&mut Store); 9] = [
        |store| store.put_import(&import(1)).unwrap(),
        |store| store.mark_durable(session(1), &stamps(0..3000)).unwrap(),
        |store| store.put_export(&export(2, true)).unwrap(),
        |store| store.mark_durable(session(1), &stamps(2500..6000)).unwrap(),
        |store| store.forget_durable(session(1), &[EntryIndex(9), EntryIndex(5999)]).unwrap(),
        |store| store.put_failures(session(1), &[failure(1)]).unwrap(),
        |store| store.put_import(&ImportRecord { told: true, ..import(1) }).unwrap(),
        |store| store.remove_export(TicketId([2; 16])).unwrap(),
        |store| store.remove_import(session(1)).unwrap(),
    ];
    // what the store held after how many steps
    let mut history = vec![(steps.lock().unwrap().len(), Content::of(&store).unwrap())];
    for change in change {
        change(&mut store);
        history.push((steps.lock().unwrap().len(), Content::of(&store).unwrap()));
    }
    let steps = steps.lock().unwrap().clone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(STORE_FILE);
    let (mut flushed, mut random, mut cuts) = (Vec::new(), 1, 0);
    let mut pending: Vec<&Step> = Vec::new();
    for (at, step) in (0..).zip(&steps) {
        pending.push(step);
        if at >= history[0].0 {
            for _ in 0..4 {
                let mut image = flushed.clone();
                for step in pending.iter().filter_map(|step| part(step, &mut random)) {
                    play(&mut image, &step);
                }
                std::fs::write(&path, &image).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                let store = Store::open(dir.path()).unwrap_or_else(|error| panic!("step {at}: {error}"));
                let found = Content::of(&store).unwrap();
                let finished = history.iter().rposition(|(steps, _)| *steps <= at).unwrap();
                let expected = &history[finished..history.len().min(finished + 2)];
                assert!(expected.iter().any(|(_, content)| *content == found), "step {at}");
                cuts += 1;
            }
        }
        if matches!(step, Step::Flush) {
            pending.drain(..).for_each(|step| play(&mut flushed, step));
        }
    }
    eprintln!("{cuts} power cuts in {} steps", steps.len());
    assert!(cuts > 100);
}

/// What the store's error is when the disk says no.
#[derive(Debug)]
struct Full(InMemoryBackend, Arc<std::sync::atomic::AtomicBool>);

impl StorageBackend for Full {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }
}

// RELIABILITY F22
#[test]
fn a_write_that_failed_is_named_and_never_retried_into_success() {
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let disk = Full(InMemoryBackend::new(), Arc::clone(&full));
    let store = Store { db: redb::Builder::new().create_with_backend(disk).unwrap(), path: "full".into() };
    store.write(lay_out).unwrap();
    full.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = store.put_import(&import(1)).unwrap_err();
    assert_eq!((error.code(), error.hint().is_some()), (Code::NoSpace, true));
    full.store(false, std::sync::atomic::Ordering::Relaxed);
    let error = store.put_import(&import(1)).unwrap_err();
    assert!(matches!(error, StoreError::Broken { .. }) && error.code() == Code::IoError, "{error}");
}
