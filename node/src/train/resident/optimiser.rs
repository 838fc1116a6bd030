//! The optimiser and the moving average of [`super::super::optimiser`] and [`super::super::teacher`] as operations on flat
//! tensors, in the same order of operations.

use burn::tensor::{Tensor, backend::Backend};

use crate::train::{teacher::kept, trainer::Optimiser};

/// The optimiser's state, on the device.
#[derive(Clone, Debug)]
pub(super) struct Sgd<B: Backend> {
    momentum: f32,
    weight_decay: f32,
    velocity: Tensor<B, 1>,
}

impl<B: Backend> Sgd<B> {
    pub(super) fn resume(velocity: Tensor<B, 1>, optimiser: Optimiser) -> Self {
        let Optimiser { momentum, weight_decay } = optimiser;
        Self { momentum: momentum as f32, weight_decay: weight_decay as f32, velocity }
    }

    /// `weights` after a step against `gradient`.
    pub(super) fn step(&mut self, weights: Tensor<B, 1>, gradient: Tensor<B, 1>, learning_rate: f64) -> Tensor<B, 1> {
        let decayed = gradient + weights.clone().mul_scalar(self.weight_decay);
        self.velocity = self.velocity.clone().mul_scalar(self.momentum) + decayed;
        weights - self.velocity.clone().mul_scalar(learning_rate as f32)
    }

    pub(super) fn velocity(&self) -> &Tensor<B, 1> {
        &self.velocity
    }
}

/// `teacher` after it followed `student` in step `step`.
pub(super) fn follow<B: Backend>(teacher: Tensor<B, 1>, student: &Tensor<B, 1>, step: u64) -> Tensor<B, 1> {
    let kept = kept(step);
    teacher.mul_scalar(kept) + student.clone().mul_scalar(1.0 - kept)
}

#[cfg(test)]
mod tests {
    use burn::{backend::Flex, tensor::TensorData};

    use super::*;
    use crate::train::{generator, normal, optimiser as host, teacher};

    fn draw(count: usize, purpose: &str) -> Vec<f32> {
        let mut random = generator(1, purpose, &[]);
        (0..count).map(|_| normal(&mut random)).collect()
    }

    fn tensor(values: &[f32]) -> Tensor<Flex, 1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Default::default())
    }

    #[test]
    fn steps_are_those_of_the_host_to_the_bit() {
        let settings = Optimiser { momentum: 0.9, weight_decay: 1e-4 };
        let (mut weights, mut average) = (draw(1003, "weights"), draw(1003, "teacher"));
        let (mut on_device, mut average_there) = (tensor(&weights), tensor(&average));
        let mut sgd = host::Sgd::new(1003, settings.momentum, settings.weight_decay);
        let mut resident = Sgd::resume(tensor(sgd.velocity()), settings);
        for step in 0..5 {
            let gradient = draw(1003, &format!("gradient {step}"));
            sgd.step(&mut weights, &gradient, 0.01);
            on_device = resident.step(on_device, tensor(&gradient), 0.01);
            teacher::follow(&mut average, &weights, step);
            average_there = follow(average_there, &on_device, step);
        }
        let pairs =
            [(&weights, &on_device), (&average, &average_there), (&sgd.velocity().to_vec(), resident.velocity())];
        for (host, device) in pairs {
            assert_eq!(host, &device.to_data().into_vec::<f32>().expect("f32"));
        }
    }
}
