//! What training on the CPU spends its time in, written for the processor at hand.
//!
//! Slices in, slices out: this crate knows no tensor library. In reading order: [`simd`] (vectors, and which instructions
//! are used), [`pool`] and [`resize`] (blocks and sizes of images).

pub mod pool;
pub mod resize;
pub mod simd;
#[cfg(test)]
mod testing;
