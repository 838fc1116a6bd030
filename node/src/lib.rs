//! semisam-node: the hospital's program. In reading order: [`data`], [`cli`].

pub mod cli;
pub mod data;
