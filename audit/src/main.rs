//! semisam-audit
fn main() {}
