//! Seeded runs of both cores with everything that goes wrong between honest sides (SPEC §6.4): lost and stalled
//! connections, dead processes, damaged disks and chunks, jumping clocks, edited sources.
//!
//! A few thousand seeds by default. `cargo test --release -p me-sync-protocol --test core -- --ignored simulation`
//! plays 100,000; `ME_SYNC_SEEDS` sets how many, `ME_SYNC_FIRST_SEED` where to begin. A seed that fails is printed
//! with its scenario and steps; it fails again whenever it is played.

use std::collections::BTreeMap;

use me_sync_protocol::progress::Phase;
use me_sync_protocol::reason::Code;

use crate::pair::{Fault, Pair, Scenario};

#[expect(clippy::disallowed_methods, reason = "a test may be told which seeds to play")]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a run showed, to see afterwards that the runs were worth something.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    steps: u64,
    dials: u64,
    ok: u64,
    /// Runs that began with an outline, and those of them that needed the sealed manifest too.
    late: [u64; 2],
    failed: BTreeMap<Code, u64>,
    waited: u64,
    broke: BTreeMap<(&'static str, Phase, Phase), u64>,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.dials += other.dials;
        self.ok += other.ok;
        self.late.iter_mut().zip(other.late).for_each(|(all, more)| *all += more);
        self.waited += other.waited;
        other.failed.into_iter().for_each(|(code, n)| *self.failed.entry(code).or_insert(0) += n);
        other.broke.into_iter().for_each(|(what, n)| *self.broke.entry(what).or_insert(0) += n);
    }
}

/// Plays one seed. `Pair` checks its invariants after every step; here is what the end must be.
fn play(seed: u64, tally: &mut Tally) {
    let scenario = Scenario::seeded(seed);
    let mut pair = Pair::new(scenario);
    pair.seed(seed);
    pair.run_until(|_| false);
    assert!(pair.has_ended_or_waits(), "a run ends or waits\n{}", pair.report());
    let faults = &pair.scenario.faults;
    let offline = faults.iter().any(|f| matches!(f, Fault::Offline { .. }));
    let hopeless = |f: &Fault| match f {
        Fault::Stop { .. } | Fault::Decline | Fault::ApplyFails | Fault::Edit { .. } | Fault::Rewrite { .. } => true,
        Fault::Rot { times, .. } => *times > 1,
        _ => corrupts(f) > 1,
    };
    let waits = pair.exporter_over.is_none() || pair.importer_over.is_none();
    assert!(!waits || offline, "both sides come to an end when they can reach each other\n{}", pair.report());
    if !waits && !faults.iter().any(hopeless) && faults.iter().map(corrupts).sum::<u32>() <= 3 {
        assert_eq!(pair.outcome(), (Some(Ok(())), Some(Ok(()))), "what can be healed is healed\n{}", pair.report());
    }
    let spoilt =
        |f: &Fault| corrupts(f) > 0 || matches!(f, Fault::Rot { .. } | Fault::Edit { .. } | Fault::Rewrite { .. });
    if !faults.iter().any(spoilt) {
        assert!(pair.payload <= pair.most_payload(), "{} bytes are too many\n{}", pair.payload, pair.report());
    }
    tally.runs += 1;
    tally.steps += pair.log.len() as u64;
    tally.dials += pair.dials();
    tally.waited += u64::from(waits);
    if pair.scenario.late {
        let manifests = pair.said.iter().filter(|(_, name)| *name == "manifest_end").count();
        tally.late[0] += 1;
        tally.late[1] += u64::from(manifests > 1);
    }
    match pair.importer_over {
        Some(Ok(())) => tally.ok += 1,
        Some(Err(code)) => *tally.failed.entry(code).or_insert(0) += 1,
        None => {}
    }
    pair.broke.iter().for_each(|what| *tally.broke.entry(*what).or_insert(0) += 1);
    if waits {
        pair.expire();
    }
}

/// How many transfers a fault spoils.
fn corrupts(fault: &Fault) -> u32 {
    match fault {
        Fault::Flip { times, .. }
        | Fault::Truncate { times, .. }
        | Fault::Excess { times, .. }
        | Fault::SourceChanged { times, .. }
        | Fault::DiskFails { times, .. }
        | Fault::Lie { times, .. } => *times,
        _ => 0,
    }
}

fn play_all(first: u64, seeds: u64) -> Tally {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let worker = |n: u64| {
            move || {
                let mut tally = Tally::default();
                for seed in (first..first + seeds).filter(|seed| seed % threads == n) {
                    let played = std::panic::catch_unwind(|| {
                        let mut one = Tally::default();
                        play(seed, &mut one);
                        one
                    });
                    match played {
                        Ok(one) => tally.merge(one),
                        Err(_) => panic!("seed {seed} fails: ME_SYNC_FIRST_SEED={seed} ME_SYNC_SEEDS=1 plays it again"),
                    }
                }
                tally
            }
        };
        let workers: Vec<_> = (0..threads).map(|n| scope.spawn(worker(n))).collect();
        for worker in workers {
            tally.merge(worker.join().expect("every seed holds"));
        }
    });
    tally
}

/// In which phases of a side runs were broken, by what.
fn phases(tally: &Tally, what: &str, exporter: bool) -> usize {
    let hits = tally.broke.keys().filter(|(kind, ..)| *kind == what);
    let phases: std::collections::BTreeSet<_> = hits.map(|(_, e, i)| if exporter { *e } else { *i }).collect();
    phases.len()
}

#[test]
fn thousands_of_runs_end_old_or_new_and_send_nothing_twice() {
    let tally = play_all(number("ME_SYNC_FIRST_SEED", 1), number("ME_SYNC_SEEDS", 4000));
    if tally.runs < 4000 {
        return;
    }
    assert!(tally.ok * 2 > tally.runs && tally.failed.len() >= 6, "{tally:#?}");
    assert!(tally.late[0] * 4 > tally.runs && tally.late[1] * 10 > tally.runs, "{tally:#?}");
    for what in ["cut", "mute", "importer crash", "exporter crash"] {
        // connecting, waiting, manifest, bulk, retry, verify, apply; ended
        assert!(phases(&tally, what, true) >= 6 && phases(&tally, what, false) >= 6, "{what}: {tally:#?}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what the runs met is the result")]
#[ignore = "minutes: 100,000 runs, or as many as ME_SYNC_SEEDS says"]
fn simulation_of_a_hundred_thousand_runs() {
    let tally = play_all(number("ME_SYNC_FIRST_SEED", 1), number("ME_SYNC_SEEDS", 100_000));
    println!("{tally:#?}");
}
