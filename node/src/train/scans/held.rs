//! A bounded number of bytes of prepared scans in memory; those that were not used for longest are let go first.

use std::{collections::HashMap, sync::Arc};

use crate::train::crops::PreparedScan;

/// The scans that are in memory, by their position.
pub(super) struct Held {
    most: u64,
    bytes: u64,
    /// Counts uses, so that the last use of each scan can be compared.
    uses: u64,
    scans: HashMap<usize, (Arc<PreparedScan>, u64)>,
}

impl Held {
    pub(super) fn new(most: u64) -> Self {
        Self { most, bytes: 0, uses: 0, scans: HashMap::new() }
    }

    pub(super) fn get(&mut self, position: usize) -> Option<Arc<PreparedScan>> {
        let (scan, used) = self.scans.get_mut(&position)?;
        self.uses += 1;
        *used = self.uses;
        Some(scan.clone())
    }

    /// Holds a scan, if it has room at all, and lets others go for it.
    pub(super) fn insert(&mut self, position: usize, scan: &Arc<PreparedScan>) {
        if scan.bytes() > self.most || self.get(position).is_some() {
            return;
        }
        self.bytes += scan.bytes();
        while self.bytes > self.most {
            let oldest = self.scans.iter().min_by_key(|(_, (_, used))| *used).map(|(position, _)| *position);
            let (oldest, _) = oldest.and_then(|oldest| self.scans.remove(&oldest)).expect("one scan alone has room");
            self.bytes -= oldest.bytes();
        }
        self.uses += 1;
        self.scans.insert(position, (scan.clone(), self.uses));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{grid::Grid, volume::Volume};

    fn scan(voxels: usize) -> Arc<PreparedScan> {
        let Grid { shape, affine } = Grid::centred([voxels, 1, 1], [1.0; 3]);
        Arc::new(PreparedScan { image: Volume { shape, affine, values: vec![0.0; voxels] }, labels: None })
    }

    #[test]
    fn what_was_not_used_for_longest_goes_and_what_has_no_room_never_comes() {
        let mut held = Held::new(12 * 4);
        for position in 0..3 {
            held.insert(position, &scan(4));
        }
        assert!(held.get(0).is_some());
        held.insert(3, &scan(4));
        let there = |held: &Held| {
            let mut there: Vec<usize> = held.scans.keys().copied().collect();
            there.sort_unstable();
            there
        };
        assert_eq!(there(&held), [0, 2, 3]);
        held.insert(4, &scan(8));
        assert_eq!((there(&held), held.bytes), (vec![3, 4], 48));
        held.insert(5, &scan(13));
        held.insert(4, &scan(8));
        assert_eq!((there(&held), held.bytes), (vec![3, 4], 48));
        assert!(Held::new(0).get(0).is_none());
    }
}
