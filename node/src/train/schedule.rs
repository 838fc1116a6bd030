//! How weights of loss terms and the step size change over a run (spec/semisam.md, sections 5.2 and 6.2).

/// Levels of the ramp: the published recipe changes the weight every 150 of 6000 steps.
const LEVELS: u64 = 40;

/// The sigmoid ramp `exp(-5 (1 - x)²)`, x = the share of `steps` that is done, in forty levels.
pub fn ramp(step: u64, steps: u64) -> f64 {
    let level = (step * LEVELS / steps.max(1)).min(LEVELS);
    (-5.0 * (1.0 - level as f64 / LEVELS as f64).powi(2)).exp()
}

/// The same ramp in half of the steps, and what it ends with from there on: for generalists, who are asked in vain before a
/// student has learnt what to ask. The published ramp runs backwards (ARCHITECTURE.md says what was measured).
pub fn early_ramp(step: u64, steps: u64) -> f64 {
    ramp(2 * step, steps)
}

/// Polynomial decay of the step size to zero, `(1 - step / steps)^0.9`.
pub fn decay(step: u64, steps: u64) -> f64 {
    (1.0 - step as f64 / steps.max(1) as f64).max(0.0).powf(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of spec/semisam.md, section 5.2, for the teacher.
    #[test]
    fn ramps_are_those_of_the_recipe() {
        let table = [
            (0, 0.000673795, 0.000673795),
            (149, 0.000673795, 0.000862470),
            (150, 0.000862470, 0.00109711),
            (3000, 0.0286505, 0.1),
            (5999, 0.0996880, 0.1),
        ];
        for (step, teacher, generalist) in table {
            assert!((0.1 * ramp(step, 6000) - teacher).abs() < 1e-7, "{step}");
            assert!((0.1 * early_ramp(step, 6000) - generalist).abs() < 1e-7, "{step}");
        }
        assert_eq!((decay(0, 10), decay(10, 10)), (1.0, 0.0));
    }
}
