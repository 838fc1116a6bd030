//! The public linear map between a model's flat vector and what a hospital releases.
//!
//! The map is fixed in the plan and made from public data alone, so it costs no privacy: contributions are clipped and
//! noised after it (spec/privacy.md, section 14; DESIGN, privacy contract).

use std::ops::Range;

use crate::{plan::ReleaseSpace, weights::Weights};

/// The tensor of a basis file: shape [coordinates, weights].
pub const BASIS: &str = "basis";

/// A release space and a model do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseSpaceError {
    /// The plan counts otherwise.
    #[error("the plan says that the release space has {plan} coordinates, but it has {found}")]
    Coordinates {
        /// What the plan says.
        plan: u64,
        /// What it is.
        found: u64,
    },
    /// A tensor of the plan that the model lacks.
    #[error("the release space names tensor `{0}`, which the model does not have")]
    NoTensor(String),
    /// The basis is for another model, or absent.
    #[error("the release space needs a basis of shape [{coordinates}, {weights}] in tensor `{BASIS}`")]
    NoBasis {
        /// Rows.
        coordinates: u64,
        /// Columns.
        weights: usize,
    },
}

/// The map of a plan, ready for one architecture.
#[derive(Debug)]
pub struct Projection {
    length: usize,
    map: Map,
}

#[derive(Debug)]
enum Map {
    Ranges(Vec<Range<usize>>),
    Basis(Weights),
}

impl Projection {
    /// The map that `space` describes for models like `model`.
    ///
    /// # Errors
    /// If the plan, the model and the basis do not fit together.
    pub fn new(space: &ReleaseSpace, model: &Weights, basis: Option<Weights>) -> Result<Self, ReleaseSpaceError> {
        let length = model.count();
        let map = match space {
            ReleaseSpace::All { .. } => Map::Ranges(std::iter::once(0..length).collect()),
            ReleaseSpace::Tensors { names, .. } => {
                let ranges = model.flat_ranges();
                let find = |name: &String| {
                    let found = ranges.iter().find(|(other, _)| other == name).map(|(_, range)| range.clone());
                    found.ok_or_else(|| ReleaseSpaceError::NoTensor(name.clone()))
                };
                Map::Ranges(names.iter().map(find).collect::<Result<_, _>>()?)
            }
            ReleaseSpace::Basis { coordinates, .. } => {
                let fits = |basis: &Weights| {
                    basis.get(BASIS).is_some_and(|t| t.shape == [usize::try_from(*coordinates).unwrap_or(0), length])
                };
                let missing = ReleaseSpaceError::NoBasis { coordinates: *coordinates, weights: length };
                Map::Basis(basis.filter(fits).ok_or(missing)?)
            }
        };
        let projection = Self { length, map };
        let (plan, found) = (space.coordinates(), projection.coordinates() as u64);
        if plan != found {
            return Err(ReleaseSpaceError::Coordinates { plan, found });
        }
        Ok(projection)
    }

    /// The length of the released vector.
    pub fn coordinates(&self) -> usize {
        match &self.map {
            Map::Ranges(ranges) => ranges.iter().map(Range::len).sum(),
            Map::Basis(_) => self.rows().count(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let values = match &self.map {
            Map::Basis(weights) => weights.get(BASIS).map(|tensor| tensor.values.as_slice()),
            Map::Ranges(_) => None,
        };
        values.unwrap_or_default().chunks_exact(self.length.max(1))
    }

    /// The coordinates of a flat vector: `[weights] -> [coordinates]`.
    ///
    /// # Panics
    /// If `flat` has another length than the model.
    pub fn project(&self, flat: &[f32]) -> Vec<f64> {
        assert_eq!(flat.len(), self.length, "a delta has the length of its model");
        match &self.map {
            Map::Ranges(ranges) => {
                ranges.iter().flat_map(|range| flat[range.clone()].iter().map(|v| f64::from(*v))).collect()
            }
            Map::Basis(_) => self.rows().map(|row| dot(row, flat)).collect(),
        }
    }

    /// Adds the vector with these coordinates to a flat vector: `flat += map^T coordinates`.
    ///
    /// # Panics
    /// If a length differs.
    pub fn add_to(&self, coordinates: &[f64], flat: &mut [f64]) {
        assert_eq!((coordinates.len(), flat.len()), (self.coordinates(), self.length), "lengths of the release space");
        match &self.map {
            Map::Ranges(ranges) => {
                let targets = ranges.iter().flat_map(|range| range.clone());
                for (target, value) in targets.zip(coordinates) {
                    flat[target] += value;
                }
            }
            Map::Basis(_) => {
                for (row, value) in self.rows().zip(coordinates) {
                    for (target, direction) in flat.iter_mut().zip(row) {
                        *target += value * f64::from(*direction);
                    }
                }
            }
        }
    }
}

fn dot(row: &[f32], flat: &[f32]) -> f64 {
    row.iter().zip(flat).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Digest, weights::Tensor};

    fn model() -> Weights {
        let tensor = |n: usize| Tensor { shape: vec![n], values: vec![0.0; n] };
        Weights::new([("a".into(), tensor(2)), ("b".into(), tensor(1)), ("c".into(), tensor(2))]).expect("fits")
    }

    #[test]
    fn tensors_are_picked_and_put_back() {
        let space = ReleaseSpace::Tensors { names: vec!["c".into(), "a".into()], coordinates: 4 };
        let projection = Projection::new(&space, &model(), None).expect("fits");
        assert_eq!(projection.project(&[1.0, 2.0, 3.0, 4.0, 5.0]), [4.0, 5.0, 1.0, 2.0]);
        let mut flat = [0.0; 5];
        projection.add_to(&[4.0, 5.0, 1.0, 2.0], &mut flat);
        assert_eq!(flat, [1.0, 2.0, 0.0, 4.0, 5.0]);
    }

    #[test]
    fn a_basis_maps_there_and_back() {
        let half = 0.5_f32.sqrt();
        let values = vec![half, half, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let basis = Weights::new([(BASIS.into(), Tensor { shape: vec![2, 5], values })]).expect("fits");
        let space = ReleaseSpace::Basis { basis: Digest::ZERO, coordinates: 2 };
        let projection = Projection::new(&space, &model(), Some(basis)).expect("fits");
        let coordinates = projection.project(&[1.0, 1.0, 3.0, 9.0, 9.0]);
        let mut flat = [0.0; 5];
        projection.add_to(&coordinates, &mut flat);
        assert!((flat[0] - 1.0).abs() < 1e-6 && (flat[2] - 3.0).abs() < 1e-6 && flat[4] == 0.0, "{flat:?}");
    }

    #[test]
    fn misfits_are_named() {
        let missing = ReleaseSpace::Tensors { names: vec!["nose".into()], coordinates: 1 };
        let error = Projection::new(&missing, &model(), None).expect_err("absent").to_string();
        assert!(error.contains("`nose`"), "{error}");
        assert!(Projection::new(&ReleaseSpace::All { coordinates: 4 }, &model(), None).is_err());
        let basis = ReleaseSpace::Basis { basis: Digest::ZERO, coordinates: 2 };
        assert!(Projection::new(&basis, &model(), None).is_err());
    }
}
