//! semisam-sim
fn main() {}
