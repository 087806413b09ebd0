//! Scenarios (simulated), live tests (real broker, database, processes), figures.
