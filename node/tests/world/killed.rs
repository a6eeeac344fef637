//! Processes that die in the middle and are started again (RELIABILITY F61 to F65, F67, F68, F70).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::device::{Device, End, Run};
use crate::line::Line;
use crate::place::{MIB, Place, is_root, leftovers, noise, picture};
use me_sync_protocol::manifest::ManifestAssembler;

use crate::relay::{Course, Dice, End as Ends, Fate, How};

/// What the death of a process may cost: on each of four lanes a chunk that is being made and one in the window.
const IN_FLIGHT: u64 = 4 * 2 * (256 << 10);

/// `files` small files of up to 2000 bytes and one large one.
fn tree(place: &Place, files: usize, large: usize) -> u64 {
    let root = place.dir("tree");
    let mut total = large as u64;
    for n in 0..files {
        let dir = root.join(format!("d{:03}", n / 100));
        if n % 100 == 0 {
            fs::create_dir(&dir).unwrap();
        }
        let len = (n * 37) % 2000;
        total += len as u64;
        fs::write(dir.join(format!("f{n}")), noise(n as u64 + 1, len)).unwrap();
    }
    let mut file = fs::File::create(root.join("large")).unwrap();
    for block in 0..large.div_ceil(8 * MIB) {
        let len = (large - block * 8 * MIB).min(8 * MIB);
        std::io::Write::write_all(&mut file, &noise(block as u64 + 1_000_000, len)).unwrap();
    }
    total
}

/// Both devices, dying and coming back.
struct Pair {
    place: Place,
    line: Line,
    exporter: Option<Run>,
    importer: Option<Run>,
    ticket: String,
    /// The exporter has hashed nothing when its importer comes.
    cold: bool,
}

impl Pair {
    fn new(place: Place, rate: u64) -> Self {
        Self::begin(place, rate, false)
    }

    fn begin(place: Place, rate: u64, cold: bool) -> Self {
        let line = Line::new();
        line.relay.fate(move |_| Fate::slow(rate));
        let mut pair = Self { place, line, exporter: None, importer: None, ticket: String::new(), cold };
        pair.start_exporter();
        pair.start_importer();
        pair
    }

    fn device_of_exporter(&self) -> Device {
        let device = self.place.exporter().with(&["--transport", "tcp"]);
        if self.cold { device.cold() } else { device }
    }

    /// The importer works by an outline.
    fn has_outline(&self) -> bool {
        let sessions = self.device_of_importer().state.join("sessions");
        let spooled = fs::read_dir(sessions).unwrap().filter_map(|e| fs::read(e.unwrap().path().join("manifest")).ok());
        // a magic, a length, the header
        let header =
            |bytes: Vec<u8>| bytes[12..12 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize].to_vec();
        spooled.map(header).any(|header| ManifestAssembler::begin(&header).unwrap().header().outline)
    }

    fn device_of_importer(&self) -> Device {
        self.place.importer().with(&["--transport", "tcp"])
    }

    fn start_exporter(&mut self) {
        let (run, ticket) = self.device_of_exporter().send(&self.place.path("tree"));
        // the port may be another one now
        let ticket = self.line.through(&ticket);
        // a session goes on with the ticket that opened it
        let continues = run.seen.iter().any(|e| e["event"] == "ticket" && e["continues"].is_string());
        if !continues {
            self.ticket = ticket;
        }
        self.exporter = Some(run);
    }

    fn start_importer(&mut self) {
        self.importer = Some(self.device_of_importer().receive(&self.ticket, &self.place.path("target")));
    }

    /// Waits until so many bytes more have come. An importer that lost its exporter before it had a session has
    /// ended by itself: it is started again, as a person would.
    fn goes_on_for(&mut self, bytes: u64) {
        let at = self.line.relay.down().bytes() + bytes;
        loop {
            let importer = self.importer.as_mut().unwrap();
            if self.line.passes_unless(at, || importer.has_ended()) {
                return;
            }
            let end = self.importer.take().unwrap().end();
            assert!(matches!(end.code(), "peer_gone" | "peer_not_found" | "ticket_invalid"), "{:#}", end.result);
            let granted = |e: &serde_json::Value| e["session_id"].is_string();
            assert!(!end.events.iter().any(granted), "it had a session: {:#?}", end.events);
            self.start_importer();
        }
    }

    /// Both go on without anything in their way until the tree is there; how they ended.
    fn finish(&mut self) -> (End, End) {
        self.line.relay.fate(|_| Fate::default());
        // a slow connection would stay slow
        self.line.relay.cut(How::Reset);
        self.goes_on_for(1);
        let (importer, exporter) = (self.importer.take().unwrap().end(), self.exporter.take().unwrap().end());
        importer.is_applied();
        exporter.is_applied();
        assert_eq!(picture(&self.place.path("target")), picture(&self.place.path("tree")));
        assert_eq!(leftovers(&self.place.path("")), Vec::<String>::new());
        (importer, exporter)
    }
}

/// F63: `kills` deaths of one or both, at moments that the bytes on the line decide.
fn killed_at_random(files: usize, large: usize, rate: u64, kills: u64, seed: u64, cold: bool) {
    let place = Place::new();
    let total = tree(&place, files, large);
    let mut pair = Pair::begin(place, rate, cold);
    let mut dice = Dice::new(seed);
    let mut deaths = [0; 3];
    for _ in 0..kills {
        // a third of them while the processes are still starting
        let further = if dice.roll(3) == 0 { 0 } else { dice.roll(total / kills) };
        pair.goes_on_for(further);
        let who = dice.roll(3) as usize;
        deaths[who] += 1;
        // a run that goes out of scope is killed
        if who != 1 {
            drop(pair.importer.take());
        }
        if who != 0 {
            drop(pair.exporter.take());
            pair.start_exporter();
        }
        if who != 1 {
            pair.start_importer();
        }
    }
    pair.finish();
    let (sent, connections) = (pair.line.relay.down().bytes(), pair.line.relay.connections());
    // encryption and frames, and for each conversation at most one manifest: some hundred bytes an entry in all
    let overhead = total / 100 + files as u64 * 150 + (kills + 2) * (files as u64 * 100 + 20_000);
    let bound = total + overhead + (kills + 1) * IN_FLIGHT;
    let over = sent.saturating_sub(total);
    eprintln!(
        "seed {seed}: {kills} deaths (importer, exporter, both: {deaths:?}), {connections} connections, a tree of {total} bytes \
         in {} files; {sent} bytes on the wire, {over} more than the tree, {} for each death; the bound is {bound}",
        files + 1,
        over / kills,
    );
    assert!(sent <= bound, "{sent} > {bound}");
}

#[test]
fn however_both_sides_are_killed_the_tree_comes_whole_and_hardly_a_byte_twice() {
    if is_root() {
        let seed = std::env::var("ME_SYNC_TEST_SEED").ok().map_or(63, |seed| seed.parse().unwrap());
        killed_at_random(300, 24 * MIB, 6 << 20, 6, seed, false);
    }
}

#[test]
fn however_both_sides_of_a_late_session_are_killed_the_tree_comes_whole_and_hardly_a_byte_twice() {
    if is_root() {
        let seed = std::env::var("ME_SYNC_TEST_SEED").ok().map_or(64, |seed| seed.parse().unwrap());
        killed_at_random(300, 24 * MIB, 6 << 20, 6, seed, true);
    }
}

#[test]
#[ignore = "moves more than a gigabyte and takes minutes"]
fn killed_twenty_times_a_large_tree_comes_whole_and_hardly_a_byte_twice() {
    if is_root() {
        killed_at_random(10_500, 1100 * MIB, 40 << 20, 20, 1, false);
    }
}

/// A session in its bulk: a quarter of the tree is on the line.
fn under_way() -> (Pair, u64) {
    begun(false)
}

fn begun(cold: bool) -> (Pair, u64) {
    let place = Place::new();
    let total = tree(&place, 50, 8 * MIB);
    let pair = Pair::begin(place, 4 << 20, cold);
    pair.line.passes(total / 4);
    assert_eq!(pair.has_outline(), cold);
    (pair, total)
}

fn payload(end: &End) -> u64 {
    end.result["payload_bytes"].as_u64().unwrap()
}

#[test]
fn a_killed_exporter_that_is_started_again_sends_the_rest_only() {
    // F61
    if !is_root() {
        return;
    }
    for cold in [false, true] {
        let (mut pair, total) = begun(cold);
        drop(pair.exporter.take());
        pair.importer.as_mut().unwrap().until("waiting", |e| e["event"] == "waiting");
        pair.start_exporter();
        let (_, exporter) = pair.finish();
        assert!(payload(&exporter) < total - total / 4 + IN_FLIGHT, "{:#}", exporter.result);
    }
}

#[test]
fn a_killed_importer_that_is_started_again_asks_for_the_rest_only() {
    // F62
    if !is_root() {
        return;
    }
    for cold in [false, true] {
        let (mut pair, total) = begun(cold);
        drop(pair.importer.take());
        pair.start_importer();
        let (importer, _) = pair.finish();
        assert!(payload(&importer) < total - total / 4 + IN_FLIGHT, "{:#}", importer.result);
    }
}

#[test]
fn a_late_session_whose_two_sides_are_killed_comes_back_from_its_outline() {
    if !is_root() {
        return;
    }
    let (mut pair, total) = begun(true);
    drop((pair.importer.take(), pair.exporter.take()));
    pair.start_importer();
    pair.importer.as_mut().unwrap().until("waiting", |e| e["event"] == "waiting");
    pair.start_exporter();
    let (importer, _) = pair.finish();
    assert!(payload(&importer) < total - total / 4 + IN_FLIGHT, "{:#}", importer.result);
}

#[test]
fn a_late_session_whose_line_breaks_goes_on_with_the_rest_in_the_ordinary_order() {
    if !is_root() {
        return;
    }
    let (mut pair, total) = begun(true);
    pair.line.relay.cut(How::Reset);
    let (importer, exporter) = pair.finish();
    assert!(payload(&importer) < total + IN_FLIGHT, "{:#}", importer.result);
    assert!(payload(&exporter) < total + 2 * IN_FLIGHT, "{:#}", exporter.result);
}

#[test]
fn a_source_that_was_edited_while_its_exporter_was_down_comes_as_it_is_now_and_never_as_a_mix() {
    // F64
    if !is_root() {
        return;
    }
    for cold in [false, true] {
        edited_while_down(cold);
    }
}

fn edited_while_down(cold: bool) {
    let (mut pair, total) = begun(cold);
    drop(pair.exporter.take());
    let edited = pair.place.path("tree/d000/f1");
    fs::write(&edited, "another text of another length").unwrap();
    fs::write(pair.place.path("tree/new"), "a new file").unwrap();
    fs::remove_file(pair.place.path("tree/d000/f2")).unwrap();
    pair.start_exporter();
    let (importer, _) = pair.finish();
    // the session is a new one: what had come of the large file, a quarter of the tree and what was on its way, comes again
    assert!(payload(&importer) < total + total / 4 + IN_FLIGHT, "{:#}", importer.result);
    assert_eq!(fs::read_to_string(pair.place.path("target/d000/f1")).unwrap(), "another text of another length");
}

/// Where a device keeps its name.
fn identity(device: &Device) -> PathBuf {
    device.state.join("identity.key")
}

#[test]
fn an_exporter_with_another_identity_is_not_the_one_of_the_session() {
    // F65
    if !is_root() {
        return;
    }
    let (mut pair, _) = under_way();
    let key = identity(&pair.device_of_exporter());
    let old_ticket = pair.ticket.clone();
    drop((pair.exporter.take(), pair.importer.take()));
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    pair.start_exporter();
    let end = pair.device_of_importer().receive(&old_ticket, &pair.place.path("target")).end();
    assert_eq!(end.code(), "peer_mismatch", "{}", end.message());
    assert!(!pair.place.path("target").exists());
    // with its own name it goes on
    drop(pair.exporter.take());
    fs::write(&key, kept).unwrap();
    pair.start_exporter();
    pair.start_importer();
    pair.finish();
}

#[test]
fn an_importer_with_another_identity_is_not_the_one_of_the_session() {
    // F65
    if !is_root() {
        return;
    }
    let (mut pair, _) = under_way();
    let key = identity(&pair.device_of_importer());
    drop(pair.importer.take());
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let end = pair.device_of_importer().receive(&pair.ticket, &pair.place.path("target")).end();
    assert!(matches!(end.code(), "peer_mismatch" | "session_unknown" | "ticket_invalid"), "{}", end.message());
    assert!(!pair.place.path("target").exists());
    fs::write(&key, kept).unwrap();
    pair.start_importer();
    pair.finish();
}

#[test]
fn a_session_nobody_went_on_with_is_gone_after_its_time_by_the_clock_that_nobody_sets() {
    // F53, F67, F68: the clock since boot stands a day and an hour later than when the importer died
    if !is_root() {
        return;
    }
    let (mut pair, _) = under_way();
    drop((pair.importer.take(), pair.exporter.take()));
    assert_eq!(leftovers(&pair.place.path("")).len(), 1);
    let young = pair.place.importer().later(Duration::from_secs(23 * 3600));
    Run::start(young.command(&["--json", "sessions"])).end().is_applied();
    assert_eq!(leftovers(&pair.place.path("")).len(), 1, "it has another hour");
    let old = pair.place.importer().later(Duration::from_secs(25 * 3600));
    let end = Run::start(old.command(&["--json", "sessions", "--all"])).end();
    end.is_applied();
    assert_eq!(leftovers(&pair.place.path("")), Vec::<String>::new());
    assert!(!pair.place.path("target").exists());
    let told = end.events.iter().any(|e| e.to_string().contains("session_expired"));
    assert!(told, "{:#?}", end.events);
}

#[test]
fn a_second_process_that_wants_the_state_to_itself_is_refused_and_the_first_goes_on() {
    // F70; without --no-node it would join the first
    if !is_root() {
        return;
    }
    let (mut pair, _) = under_way();
    let mut second = pair.device_of_importer().command(&["--json", "--no-node", "receive", "-y"]);
    second.arg(pair.place.path("target")).env("ME_SYNC_TICKET", &pair.ticket);
    let again = Run::start(second).end();
    assert_eq!((again.exit, again.code()), (Some(16), "state_locked"), "{}", again.message());
    let (path, elsewhere) = (pair.place.path("tree"), pair.place.path("elsewhere"));
    let second = pair.device_of_exporter().command(&["--json", "--no-node", "send", path.to_str().unwrap()]);
    let end = Run::start(second).end();
    assert_eq!((end.exit, end.code()), (Some(16), "state_locked"), "{}", end.message());
    assert!(!elsewhere.exists());
    pair.finish();
}

#[test]
fn a_port_that_is_taken_is_named_and_its_owner_goes_on() {
    // F70
    if !is_root() {
        return;
    }
    let (mut pair, _) = under_way();
    let taken = pair.line.upstream_port();
    let other = Device::new("third", pair.place.path("third")).listening(&format!("127.0.0.1:{taken}"));
    let end = Run::start(other.command(&["--json", "send", pair.place.path("tree").to_str().unwrap()])).end();
    end.is_named_failure();
    assert!(end.message().contains(&taken.to_string()), "{}", end.message());
    pair.finish();
}

/// Open files, threads and memory of a process.
fn load(run: &Run) -> (usize, u64, u64) {
    let proc = PathBuf::from(format!("/proc/{}", run.id()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    };
    (fs::read_dir(proc.join("fd")).unwrap().count(), field("Threads"), field("VmRSS"))
}

/// F60: so many connections, one after the other, each of which dies after some bytes.
fn come_and_go(cycles: u64) {
    let place = Place::new();
    let total = tree(&place, 50, 8 * MIB);
    let mut pair = Pair::new(place, 64 << 20);
    let each = total / (cycles + 1);
    pair.line.relay.fate(move |_| Fate { down: Course::ends(Ends::After(each, How::Reset)), ..Fate::default() });
    pair.line.relay.cut(How::Reset);
    let mut loads = Vec::new();
    for cycle in 0..cycles {
        pair.importer.as_mut().unwrap().until("waiting", |e| e["event"] == "waiting");
        if cycle == 3 || cycle + 1 == cycles {
            loads.push((load(pair.importer.as_ref().unwrap()), load(pair.exporter.as_ref().unwrap())));
        }
    }
    eprintln!("{cycles} cycles: open files, threads, KiB of the importer and the exporter: {loads:?}");
    for (before, after) in [(loads[0].0, loads[1].0), (loads[0].1, loads[1].1)] {
        assert!(after.0 <= before.0 + 8 && after.1 <= before.1 + 4 && after.2 <= before.2 + 16 * 1024, "{loads:?}");
    }
    pair.finish();
    assert!(pair.line.relay.connections() as u64 >= cycles);
}

#[test]
fn connections_that_come_and_go_leave_nothing_open() {
    if is_root() {
        come_and_go(12);
    }
}

#[test]
#[ignore = "five hundred reconnections take minutes"]
fn five_hundred_connections_that_come_and_go_leave_nothing_open() {
    if is_root() {
        come_and_go(500);
    }
}
