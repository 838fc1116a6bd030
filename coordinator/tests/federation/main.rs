//! The coordinator over real QUIC with real certificates: a node made of nothing but the wire, sending random updates.

mod disk_full;
mod hostile;
mod rig;
mod whole;
