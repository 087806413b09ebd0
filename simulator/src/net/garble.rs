//! What damage on the way makes of a message: its real bytes, some of them changed or cut off, read by the real reader.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::Luck;

/// Most places of one message that are damaged.
const PLACES_MOST: u64 = 4;

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Garbled {
    /// Something that the reader refuses, with these words.
    Refused(String),
    /// What was sent: the damage was where it means nothing.
    Same,
    /// Something else that can be read. The checksums of a transport are there so that this does not arrive.
    Lie,
}

/// Damages a message by chance.
pub(super) fn garble<T: Serialize + DeserializeOwned + PartialEq>(luck: &Luck, sent: &T) -> Garbled {
    let mut bytes = match serde_json::to_vec(sent) {
        Ok(bytes) => bytes,
        Err(error) => return Garbled::Refused(error.to_string()),
    };
    damage(luck, &mut bytes);
    match serde_json::from_slice::<T>(&bytes) {
        Err(error) => Garbled::Refused(error.to_string()),
        Ok(read) if read == *sent => Garbled::Same,
        Ok(_) => Garbled::Lie,
    }
}

fn damage(luck: &Luck, bytes: &mut Vec<u8>) {
    let place = |bytes: &[u8]| usize::try_from(luck.below(u64::try_from(bytes.len()).unwrap_or(0))).unwrap_or(0);
    for _ in 0..=luck.below(PLACES_MOST) {
        let at = place(bytes);
        match luck.below(4) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << luck.below(8);
                }
            }
        }
    }
}
