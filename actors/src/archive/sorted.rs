//! More records than memory should hold, in order: sorted runs in a scratch file, merged as they are read.

use std::{
    collections::BinaryHeap,
    io::{self, SeekFrom},
    sync::Arc,
};

use crate::ports::scratch::{Scratch, ScratchFile};

/// Records of a run; fewer than that stay in memory altogether.
const RUN: usize = 1 << 16;
/// Records of a run that are read at once, so that a thousand runs need little.
const READ: usize = 256;

/// Takes records in any order.
pub(super) struct Sorter<const N: usize> {
    scratch: Arc<dyn Scratch>,
    run: Vec<[u8; N]>,
    file: Option<Box<dyn ScratchFile>>,
    /// Runs in the file; each is full.
    runs: u64,
}

impl<const N: usize> Sorter<N> {
    /// The scratch file is made once it is needed.
    pub(super) fn new(scratch: Arc<dyn Scratch>) -> Self {
        Self { scratch, run: vec![], file: None, runs: 0 }
    }

    pub(super) fn push(&mut self, record: [u8; N]) -> io::Result<()> {
        self.run.push(record);
        if self.run.len() < RUN {
            return Ok(());
        }
        self.run.sort_unstable();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(self.scratch.file()?),
        };
        file.write_all(self.run.as_flattened())?;
        self.runs += 1;
        self.run.clear();
        Ok(())
    }

    /// Gives them back, the greatest first.
    pub(super) fn descending(mut self) -> io::Result<Descending<N>> {
        self.run.sort_unstable();
        let length = (RUN * N) as u64;
        let mut runs: Vec<Run<N>> = (0..self.runs)
            .map(|n| Run { records: vec![], begin: n * length, end: (n + 1) * length })
            .collect();
        runs.push(Run { records: self.run, begin: 0, end: 0 });
        let mut sorted = Descending { file: self.file, runs, heads: BinaryHeap::new() };
        for run in 0..sorted.runs.len() {
            sorted.advance(run)?;
        }
        Ok(sorted)
    }
}

/// What is left of a run: its end in memory, and in front of that a part of the file.
struct Run<const N: usize> {
    records: Vec<[u8; N]>,
    begin: u64,
    end: u64,
}

/// Records of all runs, the greatest first.
pub(super) struct Descending<const N: usize> {
    file: Option<Box<dyn ScratchFile>>,
    runs: Vec<Run<N>>,
    /// The greatest record of each run.
    heads: BinaryHeap<([u8; N], usize)>,
}

impl<const N: usize> Descending<N> {
    fn advance(&mut self, at: usize) -> io::Result<()> {
        let Some(run) = self.runs.get_mut(at) else { return Ok(()) };
        if let (true, Some(file)) = (run.records.is_empty() && run.begin < run.end, &mut self.file) {
            let from = run.end.saturating_sub((READ * N) as u64).max(run.begin);
            let count = usize::try_from(run.end - from).unwrap_or(0) / N;
            run.records.resize(count, [0; N]);
            file.seek(SeekFrom::Start(from))?;
            file.read_exact(run.records.as_flattened_mut())?;
            run.end = from;
        }
        self.heads.extend(run.records.pop().map(|record| (record, at)));
        Ok(())
    }
}

impl<const N: usize> Iterator for Descending<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (record, run) = self.heads.pop()?;
        Some(self.advance(run).map(|()| record))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::ports::scratch::InMemory;

    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    impl Scratch for Counted {
        fn file(&self) -> io::Result<Box<dyn ScratchFile>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            InMemory.file()
        }
    }

    #[test]
    fn records_come_back_in_order_however_many_there_are() {
        let mut random = SmallRng::seed_from_u64(7);
        for count in [0, 1, RUN - 1, RUN, 2 * RUN + READ + 1] {
            let scratch = Arc::new(Counted::default());
            let mut sorter = Sorter::<2>::new(scratch.clone());
            let mut records: Vec<[u8; 2]> = (0..count).map(|_| random.random()).collect();
            for record in &records {
                sorter.push(*record).unwrap();
            }
            records.sort_unstable_by(|a, b| b.cmp(a));
            let sorted: Vec<_> = sorter.descending().unwrap().map(Result::unwrap).collect();
            assert!(sorted == records, "{count}");
            let files = scratch.0.load(Ordering::Relaxed);
            assert_eq!(files, usize::from(count >= RUN), "a file is made where it is needed");
        }
    }
}
