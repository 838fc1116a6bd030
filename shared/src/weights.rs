//! Named, shaped weights: what a model is to everybody who does not compute with it.
//!
//! The file format is safetensors with PyTorch names, so that every published model loads elsewhere as it is.
//! A model's digest is the SHA-256 of those bytes. The flat vector that clip, noise and aggregation see is the
//! tensors one after another in ascending order of name; names and shapes together make the architecture digest.

use std::{borrow::Borrow, collections::BTreeMap, fmt};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::ids::Digest;

/// How many tensors an error names.
const NAMED: usize = 5;

/// One tensor, row-major.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub values: Vec<f32>,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}

/// The weights of a model, by name in ascending order. Prints shapes, never values.
#[derive(Clone, PartialEq, Default)]
pub struct Weights(BTreeMap<String, Tensor>);

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Weights({} tensors, {} values)", self.0.len(), self.count())
    }
}

/// Why bytes or values are not weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A tensor of another element type.
    #[error("tensor `{name}` holds {dtype:?}, but weights are F32 or F16")]
    Type {
        /// The tensor.
        name: String,
        /// What it holds.
        dtype: Dtype,
    },
    /// A shape and a number of values disagree.
    #[error("tensor `{name}` of shape {shape:?} has {values} values")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many values there are.
        values: usize,
    },
    /// The names or shapes are not those of the architecture.
    #[error(
        "the weights do not fit the architecture: missing [{missing}], superfluous [{superfluous}], wrong shape [{reshaped}]; give a file that was written for this architecture"
    )]
    Mismatch {
        /// Names that are absent.
        missing: String,
        /// Names that do not belong.
        superfluous: String,
        /// Names with another shape.
        reshaped: String,
    },
    /// A flat vector of another length.
    #[error("a flat vector has {found} values where the architecture has {expected}")]
    Length {
        /// What the architecture has.
        expected: usize,
        /// What came.
        found: usize,
    },
}

impl Weights {
    /// Weights from named tensors.
    ///
    /// # Errors
    /// If a shape does not fit its values.
    pub fn new(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self, WeightsError> {
        let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
        for (name, tensor) in &tensors {
            if tensor.shape.iter().product::<usize>() != tensor.values.len() {
                let (shape, values) = (tensor.shape.clone(), tensor.values.len());
                return Err(WeightsError::Shape { name: name.clone(), shape, values });
            }
        }
        Ok(Self(tensors))
    }

    /// Reads a safetensors file (F32, or F16 which is widened).
    ///
    /// # Errors
    /// If the bytes are no such file, or a tensor has another type.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, WeightsError> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| WeightsError::Format(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let values = match view.dtype() {
                Dtype::F32 => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
                }
                Dtype::F16 => view.data().chunks_exact(2).map(|b| widen(u16::from_le_bytes([b[0], b[1]]))).collect(),
                dtype => return Err(WeightsError::Type { name, dtype }),
            };
            tensors.insert(name, Tensor { shape: view.shape().to_vec(), values });
        }
        Self::new(tensors)
    }

    /// The bytes of a safetensors file; the same weights give the same bytes.
    ///
    /// # Errors
    /// If a name or size cannot be written.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        let format = |e: safetensors::SafeTensorError| WeightsError::Format(e.to_string());
        let raw: Vec<(&String, &Tensor, Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, tensor)| (name, tensor, tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = raw
            .iter()
            .map(|(name, tensor, bytes)| Ok((*name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(format)?;
        safetensors::serialize(views, None).map_err(format)
    }

    /// The tensors in ascending order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// How many values there are in all.
    pub fn count(&self) -> usize {
        self.0.values().map(|tensor| tensor.values.len()).sum()
    }

    /// The digest of names and shapes: equal exactly for weights of one architecture.
    pub fn architecture(&self) -> Digest {
        let text: String = self.iter().map(|(name, tensor)| format!("{name} {:?}\n", tensor.shape)).collect();
        Digest::of(text.as_bytes())
    }

    /// All values, tensor after tensor.
    pub fn to_flat(&self) -> Vec<f32> {
        self.0.values().flat_map(|tensor| tensor.values.iter().copied()).collect()
    }

    /// Weights of this architecture with the values of `flat`.
    ///
    /// # Errors
    /// If `flat` has another length.
    pub fn with_flat(&self, flat: &[f32]) -> Result<Self, WeightsError> {
        if flat.len() != self.count() {
            return Err(WeightsError::Length { expected: self.count(), found: flat.len() });
        }
        let mut rest = flat;
        let tensors = self.0.iter().map(|(name, tensor)| {
            let (values, tail) = rest.split_at(tensor.values.len());
            rest = tail;
            (name.clone(), Tensor { shape: tensor.shape.clone(), values: values.to_vec() })
        });
        Ok(Self(tensors.collect()))
    }

    /// Where each tensor lies in the flat vector: name and half-open range.
    pub fn flat_ranges(&self) -> Vec<(&str, std::ops::Range<usize>)> {
        let mut start = 0;
        self.iter()
            .map(|(name, tensor)| {
                let range = start..start + tensor.values.len();
                start = range.end;
                (name, range)
            })
            .collect()
    }

    /// Checks that `other` has exactly the names and shapes of this one.
    ///
    /// # Errors
    /// Names the first few tensors that are missing, superfluous or of another shape, and says how many there are more.
    pub fn same_architecture(&self, other: &Weights) -> Result<(), WeightsError> {
        if self.architecture() == other.architecture() {
            return Ok(());
        }
        let missing = self.iter().filter(|(name, _)| other.get(name).is_none()).map(|(name, _)| name);
        let superfluous = other.iter().filter(|(name, _)| self.get(name).is_none()).map(|(name, _)| name);
        let reshaped = self
            .iter()
            .filter(|(name, tensor)| other.get(name).is_some_and(|t| t.shape != tensor.shape))
            .map(|(name, _)| name);
        Err(WeightsError::Mismatch {
            missing: first_few(&missing.collect::<Vec<_>>()),
            superfluous: first_few(&superfluous.collect::<Vec<_>>()),
            reshaped: first_few(&reshaped.collect::<Vec<_>>()),
        })
    }
}

/// The first few of these names, and how many there are more: for errors.
pub fn first_few<S: Borrow<str>>(names: &[S]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{}, and {more} more", names[..NAMED].join(", ")),
    }
}

/// The tensors in ascending order of name, given away: a large model is moved, not copied.
impl IntoIterator for Weights {
    type Item = (String, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// IEEE 754 half to single precision, exactly.
fn widen(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((half >> 10) & 0x1f), f32::from(half & 0x3ff));
    match exponent {
        0 => sign * fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Weights {
        let tensor = |shape: &[usize], first: f32| Tensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product::<usize>()).map(|i| first + i as f32).collect(),
        };
        Weights::new([("b.weight".to_owned(), tensor(&[2, 3], 1.0)), ("a.bias".to_owned(), tensor(&[2], -1.0))])
            .expect("shapes fit")
    }

    #[test]
    fn a_file_gives_back_the_weights_and_the_same_bytes() {
        let weights = example();
        let bytes = weights.to_safetensors().expect("written");
        let again = Weights::from_safetensors(&bytes).expect("read");
        assert_eq!(again, weights);
        assert_eq!(again.to_safetensors().expect("written"), bytes);
        assert_eq!(format!("{weights:?}"), "Weights(2 tensors, 8 values)");
    }

    #[test]
    fn the_flat_vector_is_in_order_of_name() {
        let weights = example();
        assert_eq!(weights.to_flat(), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(weights.flat_ranges(), [("a.bias", 0..2), ("b.weight", 2..8)]);
        assert_eq!(weights.with_flat(&weights.to_flat()).expect("fits"), weights);
        assert!(weights.with_flat(&[0.0]).is_err());
    }

    #[test]
    fn a_foreign_architecture_is_named() {
        let weights = example();
        let shape = vec![3];
        let other = Weights::new([("a.bias".to_owned(), Tensor { shape, values: vec![0.0; 3] })]).expect("fits");
        let error = weights.same_architecture(&other).expect_err("differs").to_string();
        assert!(error.contains("missing [b.weight]") && error.contains("wrong shape [a.bias]"), "{error}");
        let many = (0..118).map(|n| (format!("t{n:03}"), Tensor { shape: vec![1], values: vec![0.0] }));
        let error = Weights::new(many).expect("fits").same_architecture(&weights).expect_err("differs").to_string();
        assert!(error.contains("t004, and 113 more], superfluous [a.bias, b.weight]"), "{error}");
    }

    #[test]
    fn halves_widen_exactly() {
        for (half, single) in [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2_f32.powi(-24)), (0x7bff, 65504.0)] {
            assert_eq!(widen(half), single);
        }
        assert!(Weights::from_safetensors(b"not a file").is_err());
    }
}
