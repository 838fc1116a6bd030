//! Exact Euclidean distances from the voxels of one set to the nearest voxel of another, honouring the spacing.
//!
//! Separable: squared distances along z by two sweeps, then lower envelopes of parabolas along y and x (Felzenszwalb
//! and Huttenlocher, Theory of Computing 2012). The last axis is evaluated only where a distance is asked for.

use rayon::prelude::*;

use crate::data::volume::Volume;

/// Distances from each voxel of `from` (in index order) to the nearest voxel of `to`, which must have one. Both have
/// the same shape.
pub(crate) fn distances_to(to: &Volume<bool>, from: &Volume<bool>, spacing: [f64; 3]) -> Vec<f64> {
    let [nx, ny, nz] = to.shape;
    let mut squared = vec![0.0; to.values.len()];
    squared.par_chunks_mut(ny * nz).zip(to.values.par_chunks(ny * nz)).for_each(|(slab, mask)| {
        for (row, mask) in slab.chunks_mut(nz).zip(mask.chunks(nz)) {
            sweep(mask, spacing[2], row);
        }
        let mut envelope = Envelope::with_capacity(ny);
        let mut column = vec![0.0; ny];
        for z in 0..nz {
            envelope.build((0..ny).map(|y| slab[y * nz + z]), spacing[1]);
            envelope.evaluate(spacing[1], &mut column);
            (0..ny).for_each(|y| slab[y * nz + z] = column[y]);
        }
    });
    // The x columns of one y are independent: answer the questions in each, and bring the answers back to index order.
    let mut answers: Vec<(usize, f64)> = (0..ny)
        .into_par_iter()
        .flat_map_iter(|y| {
            let mut envelope = Envelope::with_capacity(nx);
            let mut column = vec![0.0; nx];
            let mut found = Vec::new();
            for z in 0..nz {
                let at = |x: usize| (x * ny + y) * nz + z;
                if !(0..nx).any(|x| from.values[at(x)]) {
                    continue;
                }
                envelope.build((0..nx).map(|x| squared[at(x)]), spacing[0]);
                envelope.evaluate(spacing[0], &mut column);
                found.extend((0..nx).filter(|&x| from.values[at(x)]).map(|x| (at(x), column[x].sqrt())));
            }
            found
        })
        .collect();
    answers.par_sort_unstable_by_key(|&(at, _)| at);
    answers.into_iter().map(|(_, distance)| distance).collect()
}

/// Squared distances along one row to the nearest set voxel of it; infinite where it has none.
fn sweep(mask: &[bool], step: f64, squared: &mut [f64]) {
    let mut nearest = f64::INFINITY;
    for (inside, value) in mask.iter().zip(&mut *squared) {
        nearest = if *inside { 0.0 } else { nearest + 1.0 };
        *value = nearest;
    }
    nearest = f64::INFINITY;
    for (inside, value) in mask.iter().zip(squared).rev() {
        nearest = if *inside { 0.0 } else { nearest + 1.0 };
        *value = (value.min(nearest) * step).powi(2);
    }
}

/// The lower envelope of the parabolas `height + (step * (x - vertex))^2`.
struct Envelope {
    /// Vertex, height, and where this parabola begins to be the lowest.
    parabolas: Vec<(f64, f64, f64)>,
}

impl Envelope {
    fn with_capacity(count: usize) -> Self {
        Self { parabolas: Vec::with_capacity(count) }
    }

    fn build(&mut self, heights: impl Iterator<Item = f64>, step: f64) {
        self.parabolas.clear();
        let weight = step * step;
        for (vertex, height) in heights.enumerate().filter(|(_, height)| height.is_finite()) {
            let vertex = vertex as f64;
            let mut begins = f64::NEG_INFINITY;
            while let Some(&(other, other_height, other_begins)) = self.parabolas.last() {
                let meeting =
                    ((height - other_height) / weight + vertex * vertex - other * other) / (2.0 * (vertex - other));
                if meeting > other_begins {
                    begins = meeting;
                    break;
                }
                self.parabolas.pop();
            }
            self.parabolas.push((vertex, height, begins));
        }
    }

    fn evaluate(&self, step: f64, column: &mut [f64]) {
        let mut current = 0;
        for (x, value) in column.iter_mut().enumerate() {
            let x = x as f64;
            while self.parabolas.get(current + 1).is_some_and(|&(_, _, begins)| begins <= x) {
                current += 1;
            }
            *value = self
                .parabolas
                .get(current)
                .map_or(f64::INFINITY, |&(vertex, height, _)| height + (step * (x - vertex)).powi(2));
        }
    }
}
