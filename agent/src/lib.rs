//! Runs on each instance: set-up, worker, heartbeats, orders.
