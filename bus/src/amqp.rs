//! The only place that names lapin.
