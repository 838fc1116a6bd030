//! The auditor's program: re-computes offline, from the logs alone, what privacy was spent, by whom, for what, and
//! whether every published model follows from the updates that were paid for. In reading order:
//!
//! * [`verify`]: a folder of logs held against the rules that all parties share, and against each other
//! * [`cli`]: the program around it, and the calculator of epsilon
//!
//! It depends on the shared rules alone, opens no connection and writes no file.

pub mod cli;
pub mod verify;
