//! What training on the CPU spends its time in, written for the processor at hand.
//!
//! Slices in, slices out: this crate knows no tensor library. In reading order: [`simd`] (vectors, and which instructions
//! are used), [`source`] (what is done to numbers while they are read), [`conv`] and [`norm`] (most of a network), [`pool`]
//! and [`resize`] (blocks and sizes of images), [`attention`] and [`gelu`] (of a frozen transformer), [`memory`] (what becomes of freed
//! memory), [`peak`] (what the kernels' speed is measured against).

pub mod attention;
pub mod conv;
mod exponential;
pub mod gelu;
pub mod memory;
pub mod norm;
pub mod peak;
pub mod pool;
pub mod resize;
mod scratch;
pub mod simd;
pub mod source;
#[cfg(test)]
mod testing;
