//! A plan as people write it: TOML without the digests, which are computed from the files beside it. A digest that is
//! written all the same must be the right one.

use std::fmt::Display;

use semisam_shared::{
    decimal::Decimal,
    ids::Digest,
    plan::{Plan, PlanError, Privacy, ReleaseSpace, Scans, Server, Student, Training, Unit},
    release_space::{BASIS, Projection, ReleaseSpaceError},
    weights::Weights,
};
use serde::Deserialize;

/// A draft and its files do not make a plan.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// A computed field was written, and differs.
    #[error("`{field}` is {written} in the plan but {computed} in the files: leave it out, it is computed")]
    Differs {
        /// Which field.
        field: &'static str,
        /// What is written.
        written: String,
        /// What the files say.
        computed: String,
    },
    /// The release space is a basis, and none was given.
    #[error("`privacy.release.space` is \"basis\": give the basis with `--basis basis.safetensors`")]
    NoBasis,
    /// A basis was given for nothing.
    #[error("`--basis` is given, but `privacy.release.space` is not \"basis\"")]
    SuperfluousBasis,
    /// The file is not a basis.
    #[error("the basis file must hold one tensor `{BASIS}` of shape [coordinates, weights]")]
    NotABasis,
    /// A weight is not a number.
    #[error("the {0} holds a value that is not finite")]
    NotFinite(&'static str),
    /// Model, basis and release space do not fit.
    #[error(transparent)]
    ReleaseSpace(#[from] ReleaseSpaceError),
    /// A field is out of range.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// See [`Plan`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    name: String,
    rounds: u32,
    quorum: u32,
    round_seconds: u64,
    initial_model: Option<Digest>,
    student: DraftStudent,
    scans: Scans,
    training: Training,
    privacy: DraftPrivacy,
    server: Server,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftStudent {
    base_filters: u32,
    groups: u32,
    classes: u32,
    architecture: Option<Digest>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftPrivacy {
    unit: Unit,
    clip_norm: Decimal,
    noise_multiplier: Decimal,
    delta: Decimal,
    expected_patients: u32,
    release: DraftRelease,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "space", rename_all = "kebab-case", deny_unknown_fields)]
enum DraftRelease {
    All { coordinates: Option<u64> },
    Tensors { names: Vec<String>, coordinates: Option<u64> },
    Basis { basis: Option<Digest>, coordinates: Option<u64> },
}

/// Weights and the digest of their file.
pub type Read<'a> = (&'a Weights, Digest);

impl Draft {
    /// The plan, with what the files say filled in.
    ///
    /// # Errors
    /// If draft, model and basis do not fit together, or a field is out of range.
    pub fn complete(self, model: Read<'_>, basis: Option<Read<'_>>) -> Result<Plan, DraftError> {
        let finite = |weights: &Weights| weights.iter().all(|(_, t)| t.values.iter().all(|v| v.is_finite()));
        if !finite(model.0) {
            return Err(DraftError::NotFinite("model"));
        }
        if basis.is_some_and(|(basis, _)| !finite(basis)) {
            return Err(DraftError::NotFinite("basis"));
        }
        let architecture = agree("student.architecture", self.student.architecture, model.0.architecture())?;
        let initial_model = agree("initial_model", self.initial_model, model.1)?;
        let release = self.privacy.release.complete(model.0, basis)?;
        let DraftStudent { base_filters, groups, classes, .. } = self.student;
        let DraftPrivacy { unit, clip_norm, noise_multiplier, delta, expected_patients, .. } = self.privacy;
        let plan = Plan {
            name: self.name,
            rounds: self.rounds,
            quorum: self.quorum,
            round_seconds: self.round_seconds,
            student: Student { base_filters, groups, classes, architecture },
            initial_model,
            scans: self.scans,
            training: self.training,
            privacy: Privacy { unit, clip_norm, noise_multiplier, delta, expected_patients, release },
            server: self.server,
        };
        plan.check()?;
        Ok(plan)
    }
}

impl DraftRelease {
    fn complete(self, model: &Weights, basis: Option<Read<'_>>) -> Result<ReleaseSpace, DraftError> {
        if basis.is_some() && !matches!(self, DraftRelease::Basis { .. }) {
            return Err(DraftError::SuperfluousBasis);
        }
        let count = |written, computed| agree("privacy.release.coordinates", written, computed);
        let space = match self {
            DraftRelease::All { coordinates } => {
                ReleaseSpace::All { coordinates: count(coordinates, model.count() as u64)? }
            }
            DraftRelease::Tensors { names, coordinates } => {
                let sizes = names.iter().map(|name| model.get(name).map_or(0, |tensor| tensor.values.len() as u64));
                let coordinates = count(coordinates, sizes.sum())?;
                ReleaseSpace::Tensors { names, coordinates }
            }
            DraftRelease::Basis { basis: written, coordinates } => {
                let (weights, digest) = basis.ok_or(DraftError::NoBasis)?;
                let shape = weights.get(BASIS).map(|tensor| tensor.shape.as_slice());
                let Some([rows, _]) = shape else { return Err(DraftError::NotABasis) };
                let basis = agree("privacy.release.basis", written, digest)?;
                ReleaseSpace::Basis { basis, coordinates: count(coordinates, *rows as u64)? }
            }
        };
        Projection::new(&space, model, basis.map(|(weights, _)| weights.clone()))?;
        Ok(space)
    }
}

fn agree<T: PartialEq + Display>(field: &'static str, written: Option<T>, computed: T) -> Result<T, DraftError> {
    match written {
        Some(written) if written != computed => {
            Err(DraftError::Differs { field, written: written.to_string(), computed: computed.to_string() })
        }
        _ => Ok(computed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semisam_shared::weights::Tensor;

    /// The sample that operators start from.
    const SAMPLE: &str = include_str!("../../deploy/plan.toml");

    fn weights(name: &str, shape: &[usize]) -> Weights {
        let values = vec![0.5; shape.iter().product()];
        Weights::new([(name.to_owned(), Tensor { shape: shape.to_vec(), values })]).expect("fits")
    }

    fn complete(text: &str, basis: Option<&Weights>) -> Result<Plan, String> {
        let draft: Draft = toml::from_str(text).map_err(|error| error.to_string())?;
        let model = weights("w", &[5]);
        let basis = basis.map(|basis| (basis, Digest::of(b"basis")));
        draft.complete((&model, Digest::of(b"model")), basis).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_is_completed_from_its_files() {
        let plan = complete(SAMPLE, Some(&weights(BASIS, &[2, 5]))).expect("a plan");
        assert_eq!(plan.initial_model, Digest::of(b"model"));
        assert_eq!(plan.student.architecture, weights("w", &[5]).architecture());
        let expected = ReleaseSpace::Basis { basis: Digest::of(b"basis"), coordinates: 2 };
        assert_eq!(plan.privacy.release, expected);
        let all = SAMPLE.replace("\"basis\"", "\"all\"");
        assert_eq!(complete(&all, None).expect("a plan").privacy.release, ReleaseSpace::All { coordinates: 5 });
        let tensors = SAMPLE.replace("\"basis\"", "\"tensors\"\nnames = [\"w\"]");
        assert_eq!(complete(&tensors, None).expect("a plan").privacy.release.coordinates(), 5);
    }

    #[test]
    fn misfits_and_wrong_keys_are_named() {
        let basis = weights(BASIS, &[2, 5]);
        let error = |text: &str, basis| complete(text, basis).expect_err("refused");
        assert!(error(SAMPLE, None).contains("--basis"));
        assert!(error(&SAMPLE.replace("\"basis\"", "\"all\""), Some(&basis)).contains("--basis"));
        let (narrow, unnamed) = (weights(BASIS, &[2, 4]), weights("nose", &[2, 5]));
        assert!(error(SAMPLE, Some(&narrow)).contains("[2, 5]"));
        assert!(error(SAMPLE, Some(&unnamed)).contains("`basis`"));
        assert!(error(&SAMPLE.replace("rounds = 4 ", "rounds = 0 "), Some(&basis)).contains("`rounds`"));
        assert!(error(&SAMPLE.replace("rounds = 4 ", "# "), Some(&basis)).contains("missing field `rounds`"));
        assert!(error(&SAMPLE.replace("quorum", "quorom"), Some(&basis)).contains("unknown field `quorom`"));
        let written = SAMPLE.replace("rounds = 4 ", &format!("initial_model = \"{}\"\nrounds = 4 ", Digest::ZERO));
        assert!(error(&written, Some(&basis)).contains("leave it out"));
        let right = SAMPLE
            .replace("classes = 2", &format!("classes = 2\narchitecture = \"{}\"", weights("w", &[5]).architecture()));
        assert!(complete(&right, Some(&basis)).is_ok());
        let bad = SAMPLE.replace("\"basis\"", "\"tensors\"\nnames = [\"nose\"]");
        assert!(error(&bad, None).contains("`nose`"));
    }
}
