//! The auditor's program: re-computes offline, from the logs alone, what privacy was spent, by whom, for what, and
//! whether every published model follows from the updates that were paid for. In reading order:
//!
//! * [`verify`]: a folder of logs held against the rules that all parties share, and against each other
//! * [`report`]: what was found, for people who decide
//! * [`cli`]: the program around them, the calculator of epsilon, and what a plan would cost
//!
//! It depends on the shared rules alone, opens no connection, and writes no file but the report that was asked for.

pub mod cli;
pub mod report;
pub mod verify;
