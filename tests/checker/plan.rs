//! What is going to happen in a history: everything that is chosen is chosen here, from the seed alone.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::Serialize;

/// What `sim:tokens=N` answers.
fn numbered(tokens: usize) -> String {
    (0..tokens).map(|n| format!("{n:04} ")).collect()
}

/// Where the history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Database {
    Sqlite,
    Postgres,
}

/// One history in every so many runs the real binary; the others have their service in this process.
const BINARY_EVERY: u64 = 5;
const CLIENTS: std::ops::RangeInclusive<usize> = 2..=4;
const SENDS: std::ops::RangeInclusive<usize> = 4..=9;
const FAULTS: std::ops::RangeInclusive<usize> = 2..=5;
/// Crashes of one bot in a history: every further one is followed by a longer pause.
const BOT_CRASHES: usize = 3;

/// How a message is sent.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Door {
    /// HTTP, waiting for the answer.
    Wait,
    /// HTTP, not waiting.
    Later,
    /// HTTP, as a stream of events that is resumed where it breaks.
    Stream,
    /// The socket.
    Socket,
}

/// A step of a client.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Step {
    Send {
        bot: usize,
        door: Door,
        /// With an Idempotency-Key, and again until its outcome is known.
        keyed: bool,
    },
    /// Stops the newest turn that this client knows.
    Stop,
    /// Reads the newest page.
    Read { bot: usize },
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// An actor of the tree dies, by its name; `server` is the gate of the model server.
    Actor(&'static str),
    /// A bot's actor panics or is killed.
    Bot { bot: usize, how: &'static str },
    /// Every connection between the clients and the service is cut.
    CutClients,
    /// `kill -9` of the service; it starts again on the same data.
    Kill,
    /// SIGTERM of the service; it starts again on the same data.
    Terminate,
    /// Every connection between the service and PostgreSQL is cut.
    CutDatabase,
    /// The next message of a client reaches PostgreSQL, the answer to it does not come back.
    CutAfterCommit,
    /// `kill -9` of all PostgreSQL processes; they start again.
    KillDatabase,
    /// PostgreSQL is frozen for so many milliseconds.
    FreezeDatabase(u64),
}

/// A bot and what its model says to everything; none = what it was asked.
#[derive(Debug, Clone, Serialize)]
pub struct Bot {
    pub id: String,
    pub model: String,
    pub says: Option<String>,
}

/// A whole history to be.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    pub seed: u64,
    pub database: Database,
    /// Whether the service is the real binary in a process of its own.
    pub binary: bool,
    pub bots: Vec<Bot>,
    pub clients: Vec<Vec<Step>>,
    /// After so many finished steps, and so many microseconds.
    pub faults: Vec<(usize, u64, Fault)>,
}

impl Plan {
    pub fn new(seed: u64, database: Database) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let binary = seed.is_multiple_of(BINARY_EVERY);
        let bots: Vec<Bot> = (0..random.random_range(1..=2)).map(|n| bot(n, random)).collect();
        let clients: Vec<Vec<Step>> =
            (0..random.random_range(CLIENTS)).map(|_| steps(bots.len(), random)).collect();
        let total: usize = clients.iter().map(Vec::len).sum();
        let mut crashes = 0;
        let mut faults: Vec<(usize, u64, Fault)> = vec![];
        for _ in 0..random.random_range(FAULTS) {
            let fault = fault(database, binary, bots.len(), random);
            crashes += usize::from(matches!(fault, Fault::Bot { .. }));
            if matches!(fault, Fault::Bot { .. }) && crashes > BOT_CRASHES {
                continue;
            }
            faults.push((random.random_range(0..total), random.random_range(0..5_000), fault));
        }
        faults.sort_by_key(|(after, ..)| *after);
        Self { seed, database, binary, bots, clients, faults }
    }
}

fn bot(number: usize, random: &mut StdRng) -> Bot {
    let id = format!("b{number}");
    match random.random_range(0..6) {
        0 => Bot { id, model: "sim:echo".into(), says: None },
        1 => Bot { id, model: "sim:tokens=40,gap_ms=2".into(), says: Some(numbered(40)) },
        2 => Bot { id, model: "sim:tokens=700".into(), says: Some(numbered(700)) },
        _ => Bot { id, model: "sim:tokens=5,gap_ms=1".into(), says: Some(numbered(5)) },
    }
}

fn steps(bots: usize, random: &mut StdRng) -> Vec<Step> {
    let mut steps = vec![];
    for _ in 0..random.random_range(SENDS) {
        let bot = random.random_range(0..bots);
        let door = *[Door::Wait, Door::Later, Door::Later, Door::Stream, Door::Socket, Door::Socket]
            .choose(random)
            .expect("there are doors");
        steps.push(Step::Send { bot, door, keyed: random.random() });
        match random.random_range(0..8) {
            0 => steps.push(Step::Stop),
            1 => steps.push(Step::Read { bot }),
            _ => {}
        }
    }
    steps
}

fn fault(database: Database, binary: bool, bots: usize, random: &mut StdRng) -> Fault {
    let bot = random.random_range(0..bots);
    let crash = Fault::Bot { bot, how: if random.random() { "panic" } else { "kill" } };
    if database == Database::Postgres && random.random_range(0..3) > 0 {
        return match random.random_range(0..8) {
            0 | 1 => Fault::CutDatabase,
            2..=4 => Fault::CutAfterCommit,
            5 | 6 => Fault::KillDatabase,
            _ => Fault::FreezeDatabase(random.random_range(50..1_500)),
        };
    }
    if binary {
        return match random.random_range(0..8) {
            0 => crash,
            1 => Fault::CutClients,
            2 => Fault::Terminate,
            _ => Fault::Kill,
        };
    }
    match random.random_range(0..10) {
        0 | 1 => crash,
        2 | 3 => Fault::CutClients,
        _ => {
            let actors = ["history", "state", "broadcast", "inference", "tasks", "bots", "server"];
            Fault::Actor(actors.choose(random).expect("there are actors"))
        }
    }
}
