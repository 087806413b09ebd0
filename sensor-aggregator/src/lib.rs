//! What workers and queues last said.
