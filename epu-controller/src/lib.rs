//! Decides how many workers each pool has, and asks for them.
