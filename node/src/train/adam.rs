//! Adam with decoupled weight decay (Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101), on the host's
//! flat vector.
//!
//! For the promptable network, whose image part and prompt part see gradients of very different size. A student is trained
//! by [`super::optimiser`].

/// Share of the mean of gradients that is kept.
const FIRST: f64 = 0.9;

/// Share of the mean of squared gradients that is kept.
const SECOND: f64 = 0.99;

/// Keeps the quotient finite.
const EPSILON: f32 = 1e-8;

/// The optimiser's state: means of gradients and of their squares.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Mean of gradients.
    pub first: Vec<f32>,
    /// Mean of squared gradients.
    pub second: Vec<f32>,
}

impl Adam {
    /// Before the first step on `count` values.
    pub fn new(count: usize) -> Self {
        Self { first: vec![0.0; count], second: vec![0.0; count] }
    }

    /// Moves `weights` in step `step`, counted from 0, against `gradient`.
    pub fn step(&mut self, weights: &mut [f32], gradient: &[f32], step: u64, learning_rate: f64, weight_decay: f64) {
        let power = |share: f64| 1.0 - share.powf(step as f64 + 1.0);
        let rate = (learning_rate * power(SECOND).sqrt() / power(FIRST)) as f32;
        let (kept, shrink) = ([FIRST as f32, SECOND as f32], 1.0 - (learning_rate * weight_decay) as f32);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            *first = kept[0] * *first + (1.0 - kept[0]) * gradient;
            *second = kept[1] * *second + (1.0 - kept[1]) * gradient * gradient;
            *weight = *weight * shrink - rate * *first / (second.sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_by_hand() {
        let (mut adam, mut weights) = (Adam::new(1), [1.0]);
        // the first step is the learning rate in the direction of the gradient, whatever its size
        adam.step(&mut weights, &[0.5], 0, 0.1, 0.0);
        assert!((weights[0] - 0.9).abs() < 1e-6);
        // m = 0.9 * 0.05 - 0.1 * 0.2 = 0.025, v = 0.99 * 0.0025 + 0.01 * 0.04 = 0.002875
        // corrected: 0.025 / 0.19 = 0.131579, 0.002875 / 0.0199 = 0.144472, root 0.380095
        adam.step(&mut weights, &[-0.2], 1, 0.1, 0.0);
        assert!((weights[0] - (0.9 - 0.1 * 0.131579 / 0.380095)).abs() < 1e-6, "{}", weights[0]);
        adam.step(&mut weights, &[0.0], 2, 0.0, 5.0);
        let before = weights[0];
        adam.step(&mut weights, &[0.0], 3, 1e-12, 1e11);
        assert!((weights[0] - 0.9 * before).abs() < 1e-6, "decay does not pass through the moments");
    }
}
