//! Mirror images of blocks of voxels, in place and without arithmetic: twice the same flip is nothing at all.
//!
//! Blocks are [x, y, z], z fastest. In RAS+ a flip along x swaps left and right, along y back and front, along z feet and
//! head.

/// Axes to mirror: along x, y, z.
pub type Axes = [bool; 3];

/// Mirrors a block of `shape` voxels along every one of `axes`.
///
/// # Panics
/// If there are not as many values as the shape says.
pub fn flip<T>(values: &mut [T], [nx, ny, nz]: [usize; 3], axes: Axes) {
    assert_eq!(values.len(), nx * ny * nz, "a block has the voxels of its shape");
    if values.is_empty() {
        return;
    }
    if axes[0] {
        swap_rows(values, ny * nz);
    }
    if axes[1] {
        values.chunks_exact_mut(ny * nz).for_each(|plane| swap_rows(plane, nz));
    }
    if axes[2] {
        values.chunks_exact_mut(nz).for_each(<[T]>::reverse);
    }
}

/// Every way to mirror along some of `axes`, along none of them first.
pub fn ways(axes: Axes) -> Vec<Axes> {
    let way = |bits: usize| std::array::from_fn(|axis| bits >> axis & 1 == 1);
    (0..8).map(way).filter(|way: &Axes| (0..3).all(|axis| axes[axis] || !way[axis])).collect()
}

/// Puts the last row of `length` first, and so on.
fn swap_rows<T>(values: &mut [T], length: usize) {
    let rows = values.len() / length;
    let (first, second) = values.split_at_mut(rows / 2 * length);
    // an odd number has a row in the middle that stays
    let second = &mut second[rows % 2 * length..];
    for (row, mirrored) in first.chunks_exact_mut(length).zip(second.rchunks_exact_mut(length)) {
        row.swap_with_slice(mirrored);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_axis_is_mirrored_on_its_own() {
        // 2 x 3 x 2
        let block: Vec<u8> = (0..12).collect();
        let flipped = |axes| {
            let mut block = block.clone();
            flip(&mut block, [2, 3, 2], axes);
            block
        };
        assert_eq!(flipped([true, false, false]), [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]);
        assert_eq!(flipped([false, true, false]), [4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7]);
        assert_eq!(flipped([false, false, true]), [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]);
        assert_eq!(flipped([true; 3]), [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        flip::<u8>(&mut [], [0, 3, 2], [true; 3]);
    }

    #[test]
    fn ways_are_the_subsets() {
        assert_eq!(ways([false; 3]), [[false; 3]]);
        assert_eq!(ways([false, true, false]), [[false; 3], [false, true, false]]);
        assert_eq!((ways([true, false, true]).len(), ways([true; 3]).len()), (4, 8));
    }

    proptest! {
        #[test]
        fn a_flip_moves_each_voxel_to_its_mirror_image_and_twice_is_nothing(
            shape in prop::array::uniform3(1_usize..7),
            axes in prop::array::uniform3(any::<bool>()),
        ) {
            let [nx, ny, nz] = shape;
            let block: Vec<usize> = (0..nx * ny * nz).collect();
            let mut flipped = block.clone();
            flip(&mut flipped, shape, axes);
            for (at, &from) in flipped.iter().enumerate() {
                let place = [at / nz / ny, at / nz % ny, at % nz];
                let [x, y, z]: [usize; 3] = std::array::from_fn(|axis| {
                    if axes[axis] { shape[axis] - 1 - place[axis] } else { place[axis] }
                });
                prop_assert_eq!(from, (x * ny + y) * nz + z);
            }
            flip(&mut flipped, shape, axes);
            prop_assert_eq!(flipped, block);
        }
    }
}
