//! Which process: of which service, and which copy of it.

use std::fmt;

use epu_core::request::Service;
use serde::{Deserialize, Serialize};

/// One process of a world. A service alone means its first copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// What it is.
    pub service: Service,
    /// Which copy, from 0.
    pub copy: u8,
}

impl From<Service> for Process {
    fn from(service: Service) -> Self {
        Self { service, copy: 0 }
    }
}

impl From<(Service, u8)> for Process {
    fn from((service, copy): (Service, u8)) -> Self {
        Self { service, copy }
    }
}

/// The first copy as the service itself, the others with a number.
impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.copy {
            0 => write!(out, "{:?}", self.service),
            copy => write!(out, "{:?} {copy}", self.service),
        }
    }
}
