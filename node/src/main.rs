//! semisam-node
fn main() {}
