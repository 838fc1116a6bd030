//! semisam-node: the hospital's program. In reading order: [`data`], [`model`], [`train`], [`device`].

pub mod data;
pub mod device;
pub mod model;
pub mod train;
