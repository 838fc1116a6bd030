//! semisam-sim
