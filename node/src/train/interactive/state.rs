//! What a run knows between two steps, and the file that it is saved in.

use semisam_shared::weights::{Tensor, Weights, WeightsError};
use sha2::{Digest, Sha256};

use super::InteractiveRun;
use crate::{model::prompt_unet::layout, train::adam::Adam};

/// A run between two steps: flat vectors in the order of the weights.
#[derive(Clone, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    pub(super) weights: Vec<f32>,
    pub(super) average: Vec<f32>,
    pub(super) adam: Adam,
    /// Digest of the settings.
    run: [u8; 32],
}

/// Prints how far it is, no values.
impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State(step {})", self.step)
    }
}

/// Why a saved state cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is no state.
    #[error("the saved state is damaged or of another program; delete it to start anew")]
    Damaged,
    /// Not safetensors.
    #[error(transparent)]
    Format(#[from] WeightsError),
    /// Saved with other settings.
    #[error(
        "the saved state belongs to a run with other settings or recipes; give the same to continue it, or delete it to start anew"
    )]
    Settings,
}

impl State {
    /// Before the first step.
    pub fn new(run: &InteractiveRun) -> Self {
        let weights = layout::initial(&run.config, run.seed).to_flat();
        let adam = Adam::new(weights.len());
        Self { step: 0, average: weights.clone(), weights, adam, run: digest(run) }
    }

    /// The result: the moving average of the weights.
    pub fn result(&self, run: &InteractiveRun) -> Weights {
        layout::blank(&run.config).with_flat(&self.average).expect("a state is made for its run's architecture")
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        // bytes are numbers that an f32 holds exactly
        let bytes = |bytes: &[u8]| bytes.iter().map(|byte| f32::from(*byte)).collect::<Vec<f32>>();
        let parts = [
            ("run", bytes(&self.run)),
            ("step", bytes(&self.step.to_le_bytes())),
            ("weights", self.weights.clone()),
            ("average", self.average.clone()),
            ("first", self.adam.first.clone()),
            ("second", self.adam.second.clone()),
        ];
        let tensors = parts.map(|(name, values)| (name.to_owned(), Tensor { shape: vec![values.len()], values }));
        Ok(Weights::new(tensors)?.to_safetensors()?)
    }

    /// Reads a file of [`State::to_bytes`].
    ///
    /// # Errors
    /// If the bytes are no state, or of a run with other settings.
    pub fn from_bytes(bytes: &[u8], run: &InteractiveRun) -> Result<Self, StateError> {
        let file = Weights::from_safetensors(bytes)?;
        let part = |name: &str| file.get(name).map(|tensor| tensor.values.clone()).ok_or(StateError::Damaged);
        let numbers = |name: &str| Ok::<Vec<u8>, StateError>(part(name)?.into_iter().map(|v| v as u8).collect());
        let saved: [u8; 32] = numbers("run")?.try_into().map_err(|_| StateError::Damaged)?;
        if saved != digest(run) {
            return Err(StateError::Settings);
        }
        let step = u64::from_le_bytes(numbers("step")?.try_into().map_err(|_| StateError::Damaged)?);
        let (weights, average) = (part("weights")?, part("average")?);
        let adam = Adam { first: part("first")?, second: part("second")? };
        let count = layout::blank(&run.config).count();
        let parts = [&weights, &average, &adam.first, &adam.second];
        let sound = parts.iter().all(|part| part.len() == count && part.iter().all(|value| value.is_finite()));
        if sound && step <= run.steps {
            Ok(Self { step, weights, average, adam, run: saved })
        } else {
            Err(StateError::Damaged)
        }
    }
}

fn digest(run: &InteractiveRun) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(run).expect("settings are plain numbers and names")).into()
}
