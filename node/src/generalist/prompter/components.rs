//! Connected parts of a mask: an object of several parts deserves a point in each, a stray voxel deserves none.

/// Voxels of each part of `mask` [x, y, z], z fastest, that share a face, an edge or a corner; the largest part first, of
/// equal ones the first in the order of voxels.
pub fn components(mask: &[bool], shape: [usize; 3]) -> Vec<Vec<usize>> {
    let [nx, ny, nz] = shape;
    let mut open = mask.to_vec();
    let mut parts = Vec::new();
    for first in 0..open.len() {
        if !std::mem::take(&mut open[first]) {
            continue;
        }
        let (mut part, mut next) = (vec![first], 0);
        while next < part.len() {
            let at = part[next];
            let [x, y, z] = [at / nz / ny, at / nz % ny, at % nz];
            for i in x.saturating_sub(1)..=(x + 1).min(nx - 1) {
                for j in y.saturating_sub(1)..=(y + 1).min(ny - 1) {
                    for k in z.saturating_sub(1)..=(z + 1).min(nz - 1) {
                        let neighbour = (i * ny + j) * nz + k;
                        if std::mem::take(&mut open[neighbour]) {
                            part.push(neighbour);
                        }
                    }
                }
            }
            next += 1;
        }
        part.sort_unstable();
        parts.push(part);
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn corners_connect_and_the_largest_comes_first() {
        // two voxels that touch at a corner, and a row of three beyond a gap, in 2 x 3 x 5
        let shape = [2, 3, 5];
        let at = |x: usize, y: usize, z: usize| (x * 3 + y) * 5 + z;
        let mut mask = vec![false; 30];
        for voxel in [at(0, 0, 0), at(1, 1, 1), at(0, 2, 3), at(1, 2, 3), at(1, 2, 4)] {
            mask[voxel] = true;
        }
        assert_eq!(
            components(&mask, shape),
            [vec![at(0, 2, 3), at(1, 2, 3), at(1, 2, 4)], vec![at(0, 0, 0), at(1, 1, 1)]]
        );
        assert!(components(&[false; 30], shape).is_empty());
        assert_eq!(components(&[true; 30], shape), [(0..30).collect::<Vec<_>>()]);
    }

    proptest! {
        #[test]
        fn parts_are_the_mask_and_nothing_twice(mask in prop::collection::vec(any::<bool>(), 60)) {
            let mut all: Vec<usize> = components(&mask, [3, 4, 5]).concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..60).filter(|at| mask[*at]).collect::<Vec<_>>());
        }
    }
}
