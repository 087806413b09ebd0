//! Launches, contextualizes and terminates instances.
