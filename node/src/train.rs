//! Training of a student.
//!
//! In reading order: [`losses`] (what is minimised), [`reference`] (parity with the published implementation).

pub mod losses;
pub mod reference;
