//! semisam-coordinator
