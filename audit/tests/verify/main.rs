//! The auditor against small real federations on disk: sound ones pass, whatever happened to them; any change is found.

mod calculator;
mod cheating;
mod federation;
mod plans;
mod program;
mod reports;
mod rules;
mod sound;
mod tampering;
