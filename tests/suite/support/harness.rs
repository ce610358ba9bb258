//! Stories are drawn, played, and where one ends badly made as short as it can be.

use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::ledger::Found;
use super::model::{Table, VIEWS_FROM};
use super::op;
use super::park::Park;
use super::world::{Failure, Property, World};

/// How long a story that ends badly is made shorter.
const SHRINKING: Duration = Duration::from_mins(2);

/// What happens, in all: the same story on the same versions always goes the same way, but for
/// what runs side by side.
#[derive(Clone, PartialEq, Eq)]
pub struct Story {
    /// The major versions of source and destination.
    pub majors: (u32, u32),
    pub settle: &'static str,
    /// A seed a table.
    pub tables: Vec<u64>,
    /// Operations, each with its seed.
    pub steps: Vec<(&'static str, u64)>,
}

/// A story that ended badly.
pub struct Ending {
    pub failure: Failure,
    /// What happened, for a person.
    pub told: Vec<String>,
}

impl Story {
    /// Draws a story.
    ///
    /// Each has operations and weights of its own (swarm testing): one in which everything may
    /// happen seldom has enough of anything.
    pub fn draw(seed: u64, park: &Park) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut major = || rng.choice(park.installations.iter()).expect("an installation").major;
        let majors = (major(), major());
        let settle = if rng.u32(..4) == 0 { "50ms" } else { "0s" };
        let number = [1, 1, 2, 3][rng.usize(..4)];
        let tables = (0..number).map(|_| rng.u64(..VIEWS_FROM * 6 / 5)).collect();
        let mut urn: Vec<&'static str> = Vec::new();
        for group in op::GROUPS {
            let about_it = [0, 1, 1, 4][rng.usize(..4)];
            for operation in group {
                let always = ["insert", "update", "sync"].contains(&operation.name);
                let often = if rng.u32(..10) < 6 { about_it } else { 0 };
                let often = if always { often.max(1) } else { often };
                urn.extend(std::iter::repeat_n(
                    operation.name,
                    (operation.weight * often) as usize,
                ));
            }
        }
        let steps = (0..rng.usize(6..40))
            .map(|_| (urn[rng.usize(..urn.len())], rng.u64(..10_000)))
            .collect();
        Self { majors, settle, tables, steps }
    }

    /// Plays it to its end, and then lets everything come to rest.
    pub fn play(&self, park: &mut Park, fault: Option<&str>) -> Result<(), Ending> {
        let at = (park.nearest(self.majors.0), park.nearest(self.majors.1));
        let major = park.installations[at.0].major;
        let tables = self
            .tables
            .iter()
            .enumerate()
            .map(|(number, seed)| Table::draw(number, *seed, major))
            .collect();
        let mut world = World::new(park, at, tables, self.settle, fault);
        let played = catch_unwind(AssertUnwindSafe(|| self.play_in(&mut world)));
        let failure = match played {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                Some(Failure { property: Property::Ends, what: format!("the harness: {said}") })
            }
        };
        let told = std::mem::take(&mut world.told);
        if std::env::var_os("HARNESS_TELL").is_some() {
            println!("{}\n", told.join("\n"));
        }
        world.forget();
        failure.map_or(Ok(()), |failure| Err(Ending { failure, told }))
    }

    fn play_in(&self, world: &mut World) -> Result<(), Failure> {
        world.note(Found::Surely);
        for (name, seed) in &self.steps {
            world.told.push(format!("-- {name}"));
            let found = (op::named(name).run)(world, &mut Rng::with_seed(*seed))?;
            if std::mem::take(&mut world.unseen) {
                world.note(found);
            }
        }
        world.told.push("-- everything comes to rest".to_owned());
        world.come_to_rest(&mut Rng::with_seed(self.steps.len() as u64));
        world.sync(&["sync"])?;
        world.second_sync_changes_nothing()
    }

    /// A shorter story that breaks the same property, as short as can be found in time.
    pub fn shrunk(self, ending: Ending, park: &mut Park, fault: Option<&str>) -> (Self, Ending) {
        let started = Instant::now();
        let (mut story, mut ending) = (self, ending);
        let mut length = story.steps.len().div_ceil(2);
        while length > 0 && started.elapsed() < SHRINKING {
            let mut at = 0;
            let mut shorter = false;
            while at < story.steps.len() && started.elapsed() < SHRINKING {
                let mut candidate = story.clone();
                candidate.steps.drain(at..(at + length).min(story.steps.len()));
                match candidate.play(park, fault) {
                    Err(other) if other.failure.property == ending.failure.property => {
                        (story, ending, shorter) = (candidate, other, true);
                    }
                    _ => at += length,
                }
            }
            if length > 1 || !shorter {
                length /= 2;
            }
        }
        for at in (0..story.tables.len()).rev() {
            let mut candidate = story.clone();
            candidate.tables.remove(at);
            if candidate.tables.is_empty() {
                continue;
            }
            if let Err(other) = candidate.play(park, fault)
                && other.failure.property == ending.failure.property
            {
                (story, ending) = (candidate, other);
            }
        }
        (story, ending)
    }
}

/// As it stands in `regressions.rs`.
impl fmt::Display for Story {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<String> = self.tables.iter().map(u64::to_string).collect();
        writeln!(formatter, "    Story {{")?;
        writeln!(formatter, "        majors: {:?},", self.majors)?;
        writeln!(formatter, "        settle: {:?},", self.settle)?;
        writeln!(formatter, "        tables: vec![{}],", tables.join(", "))?;
        writeln!(formatter, "        steps: vec![")?;
        for (name, seed) in &self.steps {
            writeln!(formatter, "            (\"{name}\", {seed}),")?;
        }
        writeln!(formatter, "        ],")?;
        write!(formatter, "    }}")
    }
}

/// Everything a person needs who meets a story that ended badly.
pub fn report(seed: Option<u64>, story: &Story, ending: &Ending) -> String {
    let mut text = String::new();
    let of = seed
        .map_or("a story".to_owned(), |seed| format!("the story of seed {seed}, made shorter,"));
    let _ = writeln!(text, "{of} ends badly:\n");
    for line in &ending.told {
        let _ = writeln!(text, "    {}", line.replace('\n', "\n    "));
    }
    let _ = writeln!(
        text,
        "\nproperty {:?} does not hold: {}",
        ending.failure.property, ending.failure.what
    );
    let Some(seed) = seed else { return text };
    let _ = writeln!(
        text,
        "\nto keep it, put this into tests/suite/regressions.rs under a name that says what broke:\n\n\
         #[test]\nfn what_broke() {{\n    replay(&\n{story});\n}}\n\n\
         to play the whole story again:\n\n    \
         HARNESS_SEED={seed} HARNESS_CASES=1 cargo test convergence"
    );
    text
}

/// How long to go on, from which seed, and how many stories at once.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub seed: u64,
    pub time: Duration,
    pub cases: u64,
    pub workers: u64,
}

impl Budget {
    /// From `HARNESS_SEED`, `HARNESS_SECONDS`, `HARNESS_CASES`, which counts more than seconds, and
    /// `HARNESS_WORKERS`.
    pub fn from_environment(default_seconds: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
        };
        let cases = number("HARNESS_CASES");
        let time = number("HARNESS_SECONDS").unwrap_or(default_seconds);
        Self {
            seed: number("HARNESS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48)),
            time: if cases.is_some() { Duration::MAX } else { Duration::from_secs(time) },
            cases: cases.unwrap_or(u64::MAX),
            workers: number("HARNESS_WORKERS").unwrap_or(1),
        }
    }
}

/// Plays story after story within the budget, and returns how many there were. Panics with a
/// report where one ends badly.
pub fn play_all(budget: Budget) -> u64 {
    let next = AtomicU64::new(0);
    let started = Instant::now();
    let bad = Mutex::new(None);
    let worker = || {
        let mut park = Park::find();
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let over = bad.lock().expect("nobody panics here").is_some();
            if over || number >= budget.cases || started.elapsed() > budget.time {
                return;
            }
            let seed = budget.seed + number;
            let story = Story::draw(seed, &park);
            if let Err(ending) = story.play(&mut park, None) {
                let (story, ending) = story.shrunk(ending, &mut park, None);
                let report = report(Some(seed), &story, &ending);
                bad.lock().expect("nobody panics here").get_or_insert(report);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..budget.workers {
            scope.spawn(worker);
        }
    });
    if let Some(report) = bad.into_inner().expect("nobody panics here") {
        panic!("{report}");
    }
    // Each worker has drawn one number too many.
    next.into_inner() - budget.workers
}
