//! What became of the requests of a simulation.

use super::class_of;
use crate::inference::queue::Class;

/// Counts, waits and shares.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Requests that came.
    pub arrived: u64,
    /// Answered.
    pub served: u64,
    /// No room in any line, or no server left to try.
    pub refused: u64,
    /// Left the line by their deadline.
    pub expired: u64,
    /// Cut off by the end of their server.
    pub cut: u64,
    /// Wait or run at the end.
    pub left: u64,
    /// Moves to another server before the first byte.
    pub failovers: u64,
    /// Times that a server said busy.
    pub busy: u64,
    /// Times that a breaker opened.
    pub opened: u64,
    /// Times that a model was loaded.
    pub loads: u64,
    /// Seconds in the line, by class; those of the bots that ask too often left out.
    pub waits: [Vec<f64>; 3],
    /// Seconds in the line of the bots that ask too often.
    pub waits_of_floods: Vec<f64>,
    /// Foretold and real wait, in seconds, of some that found somebody waiting.
    pub foretold: Vec<(f64, f64)>,
    /// Tokens of answered requests, by bot.
    pub tokens: Vec<u64>,
}

/// The value below which `percent` of all are; the nearest one that there is.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

impl Outcome {
    pub(super) fn new(bots: usize) -> Self {
        Self {
            arrived: 0,
            served: 0,
            refused: 0,
            expired: 0,
            cut: 0,
            left: 0,
            failovers: 0,
            busy: 0,
            opened: 0,
            loads: 0,
            waits: Default::default(),
            waits_of_floods: vec![],
            foretold: vec![],
            tokens: vec![0; bots],
        }
    }

    /// Requests that came to some end, and those that are left: as many as came.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.served + self.refused + self.expired + self.cut + self.left
    }

    /// Jain's index of the tokens of bots of one class, for each server the bots of its model: 1 where all have the same,
    /// 1/n where one has everything. The lowest over the servers, and the mean.
    #[must_use]
    pub fn jain(&self, class: Class, servers: usize) -> (f64, f64) {
        let of_server = |server| {
            let bots = (0..self.tokens.len()).filter(move |b| b % servers == server && class_of(*b) == class);
            let (n, sum, squares) = bots.fold((0.0, 0.0, 0.0), |(n, sum, squares), bot| {
                let tokens = self.tokens[bot] as f64;
                (n + 1.0, sum + tokens, squares + tokens * tokens)
            });
            sum * sum / (n * squares)
        };
        let all: Vec<f64> = (0..servers).map(of_server).collect();
        (all.iter().copied().fold(1.0, f64::min), all.iter().sum::<f64>() / servers as f64)
    }

    /// How far estimates were off: half and nine tenths of the ratios of the foretold to the real wait are below these.
    #[must_use]
    pub fn foretold_ratio(&self) -> (f64, f64) {
        let ratios: Vec<_> =
            self.foretold.iter().filter(|f| f.1 > 0.0).map(|(eta, wait)| eta / wait).collect();
        (percentile(&ratios, 50.0), percentile(&ratios, 90.0))
    }
}
