//! semisam-node: the hospital's program. In reading order:
//!
//! * [`cli`], [`config`], [`site_folder`]: commands, settings, and what a site keeps on disk
//! * [`data`]: scans, from files to normalised volumes
//! * [`model`], [`train`], [`student`], [`device`]: the student, how it learns, how it is used, where it runs
//! * [`generalist`]: the frozen promptable network, on scans
//! * [`privacy`]: the only door through which a weight leaves
//! * [`client`], [`participant`]: the wire, and a site's part in a federation

pub mod cli;
pub mod client;
pub mod config;
pub mod data;
pub mod device;
pub mod generalist;
pub mod model;
pub mod participant;
pub mod privacy;
pub mod site_folder;
pub mod student;
pub mod train;
