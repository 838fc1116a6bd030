//! The command line: arguments, and what is printed. Each command writes to the `Write` that it is given and returns its exit code.

pub mod data;
