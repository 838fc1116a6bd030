//! semisam-sim: a whole federation on one machine, with the real programs. In reading order:
//!
//! * [`cli`]: the command line
//! * [`programs`]: how this executable becomes node, coordinator or auditor
//! * [`demo`]: scans, certificates, rounds, scores and the auditor's verdict, from one command
//! * [`canary`]: an attacker who looks for canaries in what the release path lets out
//! * [`bench`]: tables of many trainings

pub mod bench;
pub mod canary;
pub mod cli;
pub mod demo;
pub mod programs;
