//! The EC2 driver: Amazon EC2, and clouds that speak its API.
//!
//! What needs no connection is here in any build, so that a config with an EC2 site is checked, and its user data is rendered, by every
//! program. What calls the site is behind the cargo feature `ec2`, because the vendor's library takes minutes to compile.

pub mod settings;

pub use settings::Ec2Settings;
