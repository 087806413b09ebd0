//! What the engines do, seen from outside: golden traces, laws, and what the original engines' own tests asserted.

mod laws;
mod original;
mod traces;
mod world;
