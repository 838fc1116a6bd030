//! semisam-node: the hospital's program. In reading order: [`cli`], [`site_folder`], [`config`], [`data`], [`privacy`],
//! [`client`].

pub mod cli;
pub mod client;
pub mod config;
pub mod data;
pub mod privacy;
pub mod site_folder;
