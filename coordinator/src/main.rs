//! semisam-coordinator
fn main() {}
