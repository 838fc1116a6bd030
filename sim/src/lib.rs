//! semisam-sim: a whole federation on one machine, with the real programs. In reading order:
//!
//! * [`cli`]: the command line
//! * [`programs`]: how this executable becomes node, coordinator or auditor
//! * [`demo`]: scans, certificates, rounds, scores and the auditor's verdict, from one command
//! * [`bench`]: tables of many trainings

pub mod bench;
pub mod cli;
pub mod demo;
pub mod programs;
