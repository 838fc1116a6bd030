//! semisam-node: the hospital's program. In reading order: [`data`].

pub mod data;
