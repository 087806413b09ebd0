//! What the words mean.
//!
//! Every crate speaks with the types of this one, and a type here is at once the thing in memory, its form on the wire and its
//! form in the store: there is no second model to keep in step. Nothing here waits, reads a clock, or touches a disk.
//!
//! Reading order: [`id`] and [`time`], then [`life`] (what may happen to an instance), [`instance`] and [`pool`] (what is kept),
//! [`reading`] and [`heartbeat`] (what is heard), [`fact`] and [`request`] (what is said), [`journal`] (what is remembered).

pub mod code;
pub mod fact;
pub mod hash;
pub mod health;
pub mod heartbeat;
pub mod id;
pub mod input;
pub mod instance;
pub mod invariant;
pub mod journal;
pub mod launch;
pub mod leading;
pub mod lease;
pub mod life;
pub mod machine;
pub mod pool;
pub mod random;
pub mod reading;
pub mod reason;
pub mod request;
pub mod secret;
pub mod time;

pub use code::Fault;
pub use id::{InstanceId, LaunchId, PlacementName, PoolName, SensorName, SiteName, SlotLabel, TemplateName};
pub use instance::Instance;
pub use life::State;
pub use pool::{Pool, PoolSpec};
pub use reading::Reading;
pub use reason::Reason;
pub use time::{Clock, Span, Timestamp};
