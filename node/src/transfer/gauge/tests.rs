//! The gauge against worlds with a link, a processor and another end, each with a rate.

use super::*;

const TICK: Duration = Duration::from_millis(250);

/// Megabytes a second.
#[derive(Debug, Clone, Copy)]
struct World {
    link: f64,
    /// What can be packed.
    packing: f64,
    /// What is read here, or taken at the other end.
    disks: f64,
    /// Content bytes in a packed one.
    ratio: f64,
    /// Bytes in a file.
    file: f64,
}

const TEXT: World = World { link: 12.5, packing: 170.0, disks: 400.0, ratio: 3.5, file: 2e6 };

struct Run {
    gauge: Gauge,
    now: Moment,
    reading: Reading,
    packs: bool,
}

impl Run {
    fn new() -> Self {
        let reading = Reading { moved: 0, content: 0, wire: 0, held_micros: 0, held: 0, working: 4, files: 0 };
        Self { gauge: Gauge::default(), now: Moment::default(), reading, packs: false }
    }

    /// How much of so many seconds was spent packing.
    fn pass(&mut self, world: World, seconds: u32) -> f64 {
        let ticks = seconds * 4;
        let packing = (0..ticks).filter(|_| self.tick(world)).count();
        packing as f64 / f64::from(ticks)
    }

    fn tick(&mut self, world: World) -> bool {
        let was_packing = self.packs;
        let ratio = if was_packing { world.ratio } else { 1.0 };
        let here = if was_packing && ratio > 1.0 { world.packing } else { 1000.0 };
        let content = here.min(world.disks).min(world.link * ratio);
        let is_held = content < here;
        let (content, wire) = (content * 250e3, content / ratio * 250e3);
        self.reading.content += content as u64;
        self.reading.wire += wire as u64;
        self.reading.moved += wire as u64;
        self.reading.files += (content / world.file) as u64;
        self.reading.held_micros += if is_held { 900_000 } else { 100_000 };
        self.now = self.now.after(TICK);
        self.packs = self.gauge.look(self.now, self.reading);
        was_packing
    }
}

#[test]
fn on_a_slow_link_it_packs_within_a_second_and_goes_on() {
    for link in [0.05, 1.0, 12.5, 30.0] {
        let mut run = Run::new();
        let seconds = if link < 0.1 { 8 } else { 1 };
        run.pass(World { link, ..TEXT }, seconds);
        assert!(run.packs, "{link} MB/s");
        let share = run.pass(World { link, ..TEXT }, 60);
        assert!(share > 0.99, "{link} MB/s: {share}");
    }
}

#[test]
fn on_a_fast_link_it_never_packs_whatever_holds_it_up() {
    for link in [90.0, 300.0, 5000.0] {
        let share = Run::new().pass(World { link, ..TEXT }, 60);
        assert_eq!(share, 0.0, "{link} MB/s");
    }
}

#[test]
fn where_the_other_end_is_what_is_slow_packing_is_tried_and_left() {
    let slow_disk = World { link: 1000.0, disks: 50.0, ..TEXT };
    let share = Run::new().pass(slow_disk, 120);
    assert!(share > 0.0 && share < 0.1, "{share}");
}

#[test]
fn where_the_other_end_makes_many_small_files_few_bytes_are_no_slow_link() {
    let busy = World { link: 1000.0, disks: 25.0, file: 900.0, ..TEXT };
    assert_eq!(Run::new().pass(busy, 60), 0.0);
    let slow = World { link: 5.0, file: 4000.0, ..TEXT };
    assert!(Run::new().pass(slow, 60) > 0.9);
}

#[test]
fn where_packing_is_slower_than_the_link_it_is_tried_and_left() {
    let old_device = World { link: 60.0, packing: 30.0, ..TEXT };
    let share = Run::new().pass(old_device, 120);
    assert!(share > 0.0 && share < 0.1, "{share}");
}

#[test]
fn where_packing_is_what_limits_and_still_wins_it_goes_on() {
    let share = Run::new().pass(World { link: 60.0, ..TEXT }, 120);
    assert!(share > 0.9, "{share}");
}

#[test]
fn it_follows_a_link_that_becomes_faster_or_slower() {
    let mut run = Run::new();
    run.pass(TEXT, 10);
    run.pass(World { link: 1000.0, ..TEXT }, 20);
    assert!(!run.packs, "the link became fast");
    assert_eq!(run.pass(World { link: 1000.0, ..TEXT }, 60), 0.0);
    run.pass(TEXT, 1);
    assert!(run.pass(TEXT, 30) > 0.9, "and slow again");
    run.pass(World { link: 1.0, ..TEXT }, 2);
    assert!(run.pass(World { link: 1.0, ..TEXT }, 30) > 0.9, "and slower");
}

#[test]
fn content_that_does_not_shrink_says_nothing_about_packing() {
    let mut run = Run::new();
    let share = run.pass(World { ratio: 1.0, ..TEXT }, 60);
    assert!(share > 0.95, "the lanes find out themselves: {share}");
    assert!(run.pass(TEXT, 10) > 0.95);
}

#[test]
fn a_hiccup_of_a_fast_link_is_no_slow_link() {
    let fast = World { link: 300.0, ..TEXT };
    let mut run = Run::new();
    for _ in 0..20 {
        run.pass(fast, 2);
        assert!(!run.tick(World { link: 0.0, ..fast }));
        assert!(!run.tick(World { link: 5.0, ..fast }));
    }
    assert!(!run.packs);
}

#[test]
fn lanes_without_work_tell_nothing() {
    let mut run = Run::new();
    run.reading.working = 0;
    run.pass(TEXT, 10);
    assert!(!run.packs);
}

#[test]
fn a_hole_is_no_content_that_packs() {
    let meter = crate::transfer::LaneMeter::default();
    for (counter, bytes) in [(&meter.payload, 1000), (&meter.holes, 900), (&meter.wire, 100)] {
        counter.store(bytes, Ordering::Relaxed);
    }
    let reading = meter.reading();
    assert_eq!((reading.content, reading.wire), (100, 100));
}
