//! The door for agents and operators.
