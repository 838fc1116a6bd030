//! A public subspace to release updates in: the principal directions of patient deltas on synthetic scans.
//!
//! Projected to a few dozen directions that hold most of a real update, the same privacy noise has a far smaller norm
//! (spec/privacy.md, section 14). The directions come from synthetic patients, so they cost nothing. They are the leading
//! eigenvectors of the deltas' second moments (not centred: the mean is the direction that matters most), computed from
//! the small matrix of inner products between deltas, in f64.

use semisam_shared::{
    release_space::BASIS,
    weights::{Tensor, Weights, WeightsError},
};

/// Directions with less than this share of the largest one's energy are rounding.
const NEGLIGIBLE: f64 = 1e-10;

/// Why there is no basis.
#[derive(Debug, thiserror::Error)]
pub enum SubspaceError {
    /// Nothing to take directions from.
    #[error("no subspace from {deltas} deltas of {parameters} parameters: give at least one, all of one length")]
    Deltas {
        /// How many.
        deltas: usize,
        /// Length of the first.
        parameters: usize,
    },
    /// Fewer independent deltas than directions.
    #[error("{asked} directions were asked for, but the deltas span only {found}; use more synthetic patients")]
    Rank {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The tensor cannot be made.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The `count` leading directions of `deltas`: orthonormal rows, strongest first.
///
/// Where `kept` is false a coordinate takes no part and stays zero; an empty slice keeps all.
///
/// # Errors
/// If deltas differ in length or span fewer directions.
pub fn principal_directions(deltas: &[Vec<f32>], count: usize, kept: &[bool]) -> Result<Vec<Vec<f32>>, SubspaceError> {
    let parameters = deltas.first().map_or(0, Vec::len);
    if parameters == 0 || deltas.iter().any(|delta| delta.len() != parameters) {
        return Err(SubspaceError::Deltas { deltas: deltas.len(), parameters });
    }
    let rows: Vec<Vec<f64>> = deltas.iter().map(|delta| masked(delta, kept)).collect();
    let products = rows.iter().map(|a| rows.iter().map(|b| dot(a, b)).collect()).collect();
    let (energies, vectors) = eigen(products);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| energies[*b].total_cmp(&energies[*a]));
    let negligible = energies[order[0]] * NEGLIGIBLE;
    for &column in order.iter().take(count).filter(|column| energies[**column] > negligible) {
        let mut direction = vec![0.0; parameters];
        for (row, vector) in rows.iter().zip(&vectors) {
            direction.iter_mut().zip(row).for_each(|(sum, value)| *sum += vector[column] * value);
        }
        orthonormalise(&mut direction, &basis);
        basis.push(direction);
    }
    if basis.len() < count {
        return Err(SubspaceError::Rank { asked: count, found: basis.len() });
    }
    Ok(basis.into_iter().map(|row| row.into_iter().map(|value| value as f32).collect()).collect())
}

/// The basis as a file's single tensor [`BASIS`]: [directions, parameters].
///
/// # Errors
/// If rows differ in length.
pub fn to_weights(basis: &[Vec<f32>]) -> Result<Weights, SubspaceError> {
    let shape = vec![basis.len(), basis.first().map_or(0, Vec::len)];
    Ok(Weights::new([(BASIS.to_owned(), Tensor { shape, values: basis.concat() })])?)
}

fn masked(delta: &[f32], kept: &[bool]) -> Vec<f64> {
    let kept = |at: usize| kept.get(at).copied().unwrap_or(kept.is_empty());
    delta.iter().enumerate().map(|(at, value)| if kept(at) { f64::from(*value) } else { 0.0 }).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gram and Schmidt, twice, because once leaves rounding of the strong directions in the weak ones.
fn orthonormalise(direction: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        for row in basis {
            let share = dot(direction, row);
            direction.iter_mut().zip(row).for_each(|(value, row)| *value -= share * row);
        }
        let norm = dot(direction, direction).sqrt();
        direction.iter_mut().for_each(|value| *value /= norm);
    }
}

/// Eigenvalues of a symmetric matrix, and its eigenvectors as columns (cyclic Jacobi rotations).
fn eigen(mut matrix: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let size = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    let trace: f64 = (0..size).map(|at| matrix[at][at].abs()).sum();
    for _ in 0..64 {
        let off: f64 = (0..size).flat_map(|p| (0..p).map(move |q| (p, q))).map(|(p, q)| matrix[p][q].abs()).sum();
        if off <= trace * 1e-15 {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, p, q);
            }
        }
    }
    ((0..size).map(|at| matrix[at][at]).collect(), vectors)
}

/// The rotation in the plane of `p` and `q` that makes their off-diagonal element zero.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    if matrix[p][q] == 0.0 {
        return;
    }
    let slope = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
    let tangent = slope.signum() / (slope.abs() + slope.hypot(1.0));
    let cosine = tangent.hypot(1.0).recip();
    let sine = tangent * cosine;
    let turn = |a: f64, b: f64| (cosine * a - sine * b, sine * a + cosine * b);
    for row in matrix.iter_mut().chain(vectors.iter_mut()) {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    let (above, below) = matrix.split_at_mut(q);
    for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
        (*a, *b) = turn(*a, *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::checkpoint::half_precision,
        train::{generator, normal},
    };

    fn random_rows(count: usize, length: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = generator(seed, "test rows", &[]);
        (0..count).map(|_| (0..length).map(|_| normal(&mut random)).collect()).collect()
    }

    #[test]
    fn directions_are_orthonormal_and_find_what_was_put_in() {
        let hidden = principal_directions(&random_rows(4, 300, 1), 4, &[]).expect("four rows span four directions");
        let weights = random_rows(20, 4, 2);
        let deltas: Vec<Vec<f32>> = weights
            .iter()
            .map(|w| (0..300).map(|at| (0..4).map(|k| w[k] * hidden[k][at] * (4 - k) as f32).sum()).collect())
            .collect();
        let found = principal_directions(&deltas, 3, &[]).expect("they span four");
        let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for (i, a) in found.iter().enumerate() {
            for (j, b) in found.iter().enumerate() {
                assert!((inner(a, b) - f64::from(u8::from(i == j))).abs() < 1e-5);
            }
            let inside: f64 = hidden.iter().map(|h| inner(a, h).powi(2)).sum();
            assert!((inside - 1.0).abs() < 1e-4, "direction {i} lies in the hidden space: {inside}");
        }
        assert!(matches!(principal_directions(&deltas, 5, &[]), Err(SubspaceError::Rank { found: 4, .. })));
        let tensor = Tensor { shape: vec![3, 300], values: found.concat() };
        assert_eq!(to_weights(&found).expect("rows").get(BASIS), Some(&tensor));
    }

    /// A basis is written so: its rounding is far below what noise does.
    #[test]
    fn half_precision_moves_projections_by_less_than_a_thousandth() {
        let deltas = random_rows(6, 20_000, 4);
        let basis = to_weights(&principal_directions(&deltas, 4, &[]).expect("six rows")).expect("rows");
        let bytes = half_precision(&basis).expect("rows of length one");
        let halves = Weights::from_safetensors(&bytes).expect("a file");
        let rows = |weights: &Weights| weights.get(BASIS).expect("a basis").values.clone();
        let (exact, rounded) = (rows(&basis), rows(&halves));
        assert_ne!(exact, rounded);
        let [length, apart] = deltas.iter().fold([0.0_f64; 2], |sums, delta| {
            let project = |row: &[f32]| row.iter().zip(delta).map(|(r, d)| f64::from(r * d)).sum::<f64>();
            exact.chunks(20_000).zip(rounded.chunks(20_000)).fold(sums, |[length, apart], (exact, rounded)| {
                let exact = project(exact);
                [length + exact.powi(2), apart + (project(rounded) - exact).powi(2)]
            })
        });
        assert!(apart.sqrt() < 1e-3 * length.sqrt(), "{} of {}", apart.sqrt(), length.sqrt());
    }

    #[test]
    fn a_mask_keeps_directions_inside() {
        let kept: Vec<bool> = (0..30).map(|at| at % 3 == 0).collect();
        let found = principal_directions(&random_rows(6, 30, 3), 5, &kept).expect("six rows");
        assert!(found.iter().all(|row| row.iter().zip(&kept).all(|(value, kept)| *kept || *value == 0.0)));
    }

    #[test]
    fn eigenvalues_of_a_known_matrix() {
        let (mut values, _) = eigen(vec![vec![2.0, 1.0, 0.0], vec![1.0, 2.0, 1.0], vec![0.0, 1.0, 2.0]]);
        values.sort_by(f64::total_cmp);
        for (found, expected) in values.iter().zip([2.0 - 2.0_f64.sqrt(), 2.0, 2.0 + 2.0_f64.sqrt()]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
}
