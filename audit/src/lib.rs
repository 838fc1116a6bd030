//! semisam-audit
