//! semisam-node: the hospital's program. In reading order: [`data`], [`privacy`].

pub mod data;
pub mod privacy;
