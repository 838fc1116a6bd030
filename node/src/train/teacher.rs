//! The teacher of local training: an exponential moving average of the student (spec/semisam.md, section 4).
//!
//! In a federation this average would mix patients, so there the teacher is the released model ([`super::patient`]).

/// How much of itself the teacher keeps, at most.
const KEPT: f64 = 0.99;

/// The share of itself that the teacher keeps in optimiser step `step`, counted from 0: none at first.
pub fn kept(step: u64) -> f32 {
    (1.0 - 1.0 / (step as f64 + 1.0)).min(KEPT) as f32
}

/// Moves the teacher towards the student after optimiser step `step`; step 0 copies it.
pub fn follow(teacher: &mut [f32], student: &[f32], step: u64) {
    let kept = kept(step);
    for (teacher, student) in teacher.iter_mut().zip(student) {
        *teacher = kept * *teacher + (1.0 - kept) * student;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_first_and_lags_later() {
        let mut teacher = [5.0];
        follow(&mut teacher, &[1.0], 0);
        assert_eq!(teacher, [1.0]);
        follow(&mut teacher, &[2.0], 1);
        assert_eq!(teacher, [1.5]);
        follow(&mut teacher, &[2.5], 1000);
        assert!((teacher[0] - 1.51).abs() < 1e-6);
    }
}
