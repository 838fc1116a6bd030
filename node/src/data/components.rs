//! The largest connected part of each class of a segmentation: an organ is one piece, so what lies apart is most likely wrong.
//!
//! Voxels are connected through faces, edges and corners (26 neighbours) as in the published evaluation of SemiSAM; of
//! parts of one size the first in the order of voxels stays (spec/semisam.md, section 8). What is removed becomes
//! background, not the second likeliest class. All classes are done in one pass over runs of equal voxels along z, so that
//! little memory is needed: a run takes 24 bytes, however long it is.

use super::volume::LabelMap;

/// Keeps the largest part of every class but the background. Answers how many voxels were taken away.
pub fn keep_largest(labels: &mut LabelMap) -> usize {
    let mut runs = Runs::of(labels);
    runs.connect();
    let largest = runs.largest();
    let mut removed = 0;
    for index in 0..runs.all.len() {
        let root = runs.root(index);
        let Run { class, first, end, .. } = runs.all[index];
        if largest[usize::from(class)] != Some(root) {
            labels.values[first..end].fill(0);
            removed += end - first;
        }
    }
    removed
}

/// Voxels of one class side by side along z.
struct Run {
    class: u8,
    /// Where the first and the one past the last lie among all voxels.
    first: usize,
    end: usize,
    /// An earlier run of the same part, or itself.
    parent: u32,
}

struct Runs {
    all: Vec<Run>,
    /// Where the runs of each row along z start in `all`; one entry more than there are rows.
    rows: Vec<usize>,
    shape: [usize; 3],
}

impl Runs {
    /// The runs of everything but background, in the order of voxels.
    fn of(labels: &LabelMap) -> Self {
        let mut runs = Self { all: Vec::new(), rows: vec![0], shape: labels.shape };
        let length = labels.shape[2].max(1);
        for (row, voxels) in labels.values.chunks_exact(length).enumerate() {
            let mut start = 0;
            for same in voxels.chunk_by(|one, next| one == next) {
                if same[0] != 0 {
                    let first = row * length + start;
                    let parent = u32::try_from(runs.all.len()).expect("a volume has fewer voxels than u32 counts");
                    runs.all.push(Run { class: same[0], first, end: first + same.len(), parent });
                }
                start += same.len();
            }
            runs.rows.push(runs.all.len());
        }
        runs
    }

    /// Joins each row with those of its neighbours that come before it.
    fn connect(&mut self) {
        let [nx, ny, _] = self.shape;
        for x in 0..nx {
            for y in 0..ny {
                let row = x * ny + y;
                if y > 0 {
                    self.join(row, row - 1);
                }
                if x > 0 {
                    for other in y.saturating_sub(1)..=(y + 1).min(ny - 1) {
                        self.join(row, row - y - ny + other);
                    }
                }
            }
        }
    }

    /// Joins the runs of two neighbouring rows that touch, at a corner too.
    fn join(&mut self, row: usize, other: usize) {
        // where a run would start and end if it were in the other row
        let length = self.shape[2];
        let moved = |at: usize| at + other * length - row * length;
        let mut from = self.rows[other];
        for one in self.rows[row]..self.rows[row + 1] {
            let (class, first, end) = (self.all[one].class, moved(self.all[one].first), moved(self.all[one].end));
            while from < self.rows[other + 1] && self.all[from].end < first {
                from += 1;
            }
            for two in from..self.rows[other + 1] {
                if self.all[two].first > end {
                    break;
                }
                if self.all[two].class == class {
                    let (a, b) = (self.root(one), self.root(two));
                    // the earlier run stands for the part, so that its number tells which part comes first
                    self.all[a.max(b)].parent = a.min(b) as u32;
                }
            }
        }
    }

    /// The first run of the part that a run belongs to.
    fn root(&mut self, mut run: usize) -> usize {
        while self.all[run].parent as usize != run {
            let above = self.all[run].parent as usize;
            self.all[run].parent = self.all[above].parent;
            run = above;
        }
        run
    }

    /// For each class the first run of its largest part.
    fn largest(&mut self) -> [Option<usize>; 256] {
        let mut voxels = vec![0_usize; self.all.len()];
        for run in 0..self.all.len() {
            voxels[self.root(run)] += self.all[run].end - self.all[run].first;
        }
        let mut largest: [Option<usize>; 256] = [None; 256];
        for (root, &count) in voxels.iter().enumerate().filter(|(_, count)| **count > 0) {
            let best = &mut largest[usize::from(self.all[root].class)];
            if best.is_none_or(|best| count > voxels[best]) {
                *best = Some(root);
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{data::grid::Grid, generalist::prompter::components::components};

    fn labels(shape: [usize; 3], values: Vec<u8>) -> LabelMap {
        let Grid { shape, affine } = Grid::centred(shape, [1.0; 3]);
        LabelMap { shape, affine, values }
    }

    /// A ball of `class` in a map of 20 x 20 x 20.
    fn ball(into: &mut LabelMap, centre: [i32; 3], radius: i32, class: u8) {
        for at in 0..8000 {
            let place = [at / 400, at / 20 % 20, at % 20];
            if (0..3).map(|axis| (place[axis] - centre[axis]).pow(2)).sum::<i32>() <= radius * radius {
                into.values[at as usize] = class;
            }
        }
    }

    #[test]
    fn of_two_blobs_the_larger_stays_for_every_class() {
        let mut mask = labels([20; 3], vec![0; 8000]);
        ball(&mut mask, [5, 5, 5], 3, 1);
        ball(&mut mask, [14, 14, 14], 4, 2);
        let expected = mask.clone();
        ball(&mut mask, [15, 5, 4], 2, 1);
        ball(&mut mask, [3, 15, 16], 2, 2);
        let before = mask.values.iter().filter(|class| **class > 0).count();
        let removed = keep_largest(&mut mask);
        assert!(removed > 0 && mask == expected);
        assert_eq!(before - removed, mask.values.iter().filter(|class| **class > 0).count());
        assert_eq!(keep_largest(&mut mask), 0, "what is one piece stays");
    }

    #[test]
    fn of_equal_parts_the_first_stays_and_corners_connect() {
        // two pairs that touch at a corner each, in 2 x 2 x 5
        let at = |x: usize, y: usize, z: usize| (x * 2 + y) * 5 + z;
        let mut mask = labels([2, 2, 5], vec![0; 20]);
        for voxel in [at(0, 0, 0), at(1, 1, 1), at(0, 1, 4), at(1, 0, 3)] {
            mask.values[voxel] = 7;
        }
        assert_eq!(keep_largest(&mut mask), 2);
        let left: Vec<usize> = (0..20).filter(|voxel| mask.values[*voxel] == 7).collect();
        assert_eq!(left, [at(0, 0, 0), at(1, 1, 1)]);
    }

    proptest! {
        #[test]
        fn it_is_the_first_of_the_parts_that_a_flood_finds(
            shape in prop::array::uniform3(1_usize..8),
            seed in prop::collection::vec(0_u8..5, 343),
        ) {
            let count = shape.iter().product();
            // two classes, and enough background that there are parts
            let values: Vec<u8> = seed[..count].iter().map(|value| value.saturating_sub(2)).collect();
            let mut found = labels(shape, values.clone());
            let removed = keep_largest(&mut found);
            let mut expected = vec![0; count];
            for class in [1, 2] {
                let mask: Vec<bool> = values.iter().map(|value| *value == class).collect();
                for voxel in components(&mask, shape).into_iter().next().unwrap_or_default() {
                    expected[voxel] = class;
                }
            }
            prop_assert_eq!(removed, values.iter().zip(&expected).filter(|(a, b)| a != b).count());
            prop_assert_eq!(found.values, expected);
        }
    }
}
