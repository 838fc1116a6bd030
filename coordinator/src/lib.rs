//! The consortium's program: a small server that never loses a round and that one bad site cannot stop. In reading order:
//!
//! * [`disk`], [`store`], [`spool`]: files that a crash leaves whole; blobs by digest; uploads on their way
//! * [`journal`], [`folding`], [`driver`]: the sync core, which knows neither socket nor clock
//! * [`server`]: the async rim: connections, uploads, timers, exclusion, shutdown
//! * [`folder`], [`config`], [`draft`], [`found`], [`enrol`], [`status`], [`cli`]: what operators hold in their hands

pub mod cli;
pub mod config;
pub mod disk;
pub mod draft;
pub mod driver;
pub mod enrol;
pub mod folder;
pub mod folding;
pub mod found;
pub mod journal;
pub mod server;
pub mod spool;
pub mod status;
pub mod store;
