//! Percentiles, and a small seeded generator.

/// Values of one thing, to be asked for percentiles.
#[derive(Debug, Default, Clone)]
pub struct Sample(Vec<f64>);

impl From<Vec<f64>> for Sample {
    fn from(values: Vec<f64>) -> Self {
        Self(values)
    }
}

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which `percent` of all are; the nearest one that was measured.
    pub fn at(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// p50, p95 and p99.
    pub fn usual(&self) -> [f64; 3] {
        [self.at(50.0), self.at(95.0), self.at(99.0)]
    }
}

/// Numbers for a table.
pub fn cells(values: impl IntoIterator<Item = f64>, digits: usize) -> Vec<String> {
    values.into_iter().map(|v| format!("{v:.digits$}")).collect()
}

/// A generator whose order is the same in every run (xorshift).
#[derive(Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn coin(&mut self) -> bool {
        self.next() >> 40 & 1 == 1
    }
}
