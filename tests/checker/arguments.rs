//! The command line of the checker: its own words, and as much of libtest's as `cargo test` passes on to every test binary.

use crate::plan::Database;

/// Histories where nobody says how many: a look in passing. `scripts/test` and proofs want more.
const HISTORIES: u64 = 6;
/// The first seed where nobody names one.
const SEED: u64 = 1;

/// What is wanted.
#[derive(Debug)]
pub struct Arguments {
    pub histories: u64,
    pub seed: u64,
    /// How often each seed.
    pub repeat: u64,
    /// Histories at the same time.
    pub jobs: usize,
    pub database: Database,
    /// A part of the names of the tests that are wanted.
    filter: Option<String>,
    /// Only what is ignored: nothing.
    ignored: bool,
}

impl Arguments {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        let mut read = Self {
            histories: HISTORIES,
            seed: SEED,
            repeat: 1,
            jobs,
            database: Database::Sqlite,
            filter: None,
            ignored: false,
        };
        while let Some(word) = words.next() {
            let mut number = || {
                let number = words.next().and_then(|text| text.parse::<u64>().ok());
                number.ok_or_else(|| format!("{word} wants a number"))
            };
            match word.as_str() {
                "--histories" => read.histories = number()?,
                "--seed" => read.seed = number()?,
                "--repeat" => read.repeat = number()?,
                "--jobs" => read.jobs = usize::try_from(number()?).map_or(1, |jobs| jobs.max(1)),
                "--database" => {
                    read.database = match words.next().as_deref() {
                        Some("sqlite") => Database::Sqlite,
                        Some("postgres") => Database::Postgres,
                        _ => return Err("--database wants sqlite or postgres".into()),
                    }
                }
                "--ignored" | "--list" => read.ignored = true,
                // What else libtest knows changes nothing here.
                word if word.starts_with('-') => {}
                word => read.filter = Some(word.to_owned()),
            }
        }
        Ok(read)
    }

    pub fn wants(&self, name: &str) -> bool {
        !self.ignored && self.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    }

    pub fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let (seed, repeat) = (self.seed, self.repeat);
        (0..self.histories).flat_map(move |n| (0..repeat).map(move |_| seed.wrapping_add(n)))
    }

    /// The command that plays a seed again.
    pub fn again(&self, seed: u64) -> String {
        let database = match self.database {
            Database::Sqlite => "",
            Database::Postgres => " --database postgres",
        };
        format!("cargo test --test checker -- histories --seed {seed} --histories 1 --repeat 20{database}")
    }
}
