//! semisam-node: the hospital's program. In reading order: [`cli`], [`data`], [`model`], [`train`], [`student`], [`preview`],
//! [`device`].

pub mod cli;
pub mod data;
pub mod device;
pub mod model;
pub mod preview;
pub mod student;
pub mod train;
