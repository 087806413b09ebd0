//! What must always be true.
