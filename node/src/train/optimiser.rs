//! Stochastic gradient descent with momentum, on the host's flat vector.
//!
//! As in PyTorch: `g ← g + λ w`, `v ← μ v + g`, `w ← w − η v`. A patient's run starts with a fresh velocity, because moments
//! kept between patients would carry one into another (spec/privacy.md, P4).

/// The optimiser's state.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    momentum: f32,
    weight_decay: f32,
    velocity: Vec<f32>,
}

impl Sgd {
    /// A fresh state for `count` values.
    pub fn new(count: usize, momentum: f64, weight_decay: f64) -> Self {
        Self { momentum: momentum as f32, weight_decay: weight_decay as f32, velocity: vec![0.0; count] }
    }

    /// The state of an interrupted run.
    pub fn resume(velocity: Vec<f32>, momentum: f64, weight_decay: f64) -> Self {
        Self { velocity, ..Self::new(0, momentum, weight_decay) }
    }

    /// Moves `weights` against `gradient`.
    pub fn step(&mut self, weights: &mut [f32], gradient: &[f32], learning_rate: f64) {
        let learning_rate = learning_rate as f32;
        for ((weight, velocity), gradient) in weights.iter_mut().zip(&mut self.velocity).zip(gradient) {
            *velocity = self.momentum * *velocity + (gradient + self.weight_decay * *weight);
            *weight -= learning_rate * *velocity;
        }
    }

    /// What a later [`Sgd::resume`] needs.
    pub fn velocity(&self) -> &[f32] {
        &self.velocity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let (mut sgd, mut weights) = (Sgd::new(1, 0.9, 0.1), [1.0]);
        sgd.step(&mut weights, &[0.4], 0.1); // g = 0.5, v = 0.5, w = 0.95
        assert!((weights[0] - 0.95).abs() < 1e-6);
        sgd.step(&mut weights, &[0.4], 0.1); // g = 0.495, v = 0.945, w = 0.8555
        assert!((weights[0] - 0.8555).abs() < 1e-6);
    }
}
