//! The simulated world: clock, cloud, agents, queue; the production services run in it unchanged.
