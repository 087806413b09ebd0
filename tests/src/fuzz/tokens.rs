//! What is shown at the door to be let in.

use epu_bus::http::auth::recognise;
use epu_bus::token::{Keyring, OPERATOR_TOKEN_MIN, OperatorToken, TOKEN_MAX};
use epu_core::id::{InstanceId, LaunchId};
use epu_core::request::Caller;
use epu_core::time::Timestamp;
use uuid::Uuid;

use super::{Verdict, so};

const NOW: Timestamp = Timestamp(1_763_840_236_000);
/// The operator's token. A seed has it.
const OPERATOR: &str = "operator-0123456789";
/// Words of tokens.
pub(super) const WORDS: &[&str] = &[
    "Bearer ",
    "bearer ",
    "Basic ",
    "l.",
    "i.",
    ".",
    OPERATOR,
    "1763840236001",
    "-1",
    "9223372036854775807",
];

/// Nobody is let in but with exactly what was given out. The seeds have been given out by the same keys.
pub(super) fn shown(input: &[u8]) -> Verdict {
    let header = String::from_utf8_lossy(input);
    let keys = Keyring::new(&[7; 32]).map_err(|error| error.to_string())?;
    let operator = OperatorToken::new(OPERATOR).map_err(|error| error.to_string())?;
    let given = header.trim().split_once(' ').map_or("", |(_, token)| token).trim();
    match recognise(Some(&header), &keys, &operator, NOW) {
        Ok(Caller::Operator(_)) => so(given == OPERATOR, || format!("{given:?} was taken for the operator's token"))?,
        Ok(Caller::Instance(id)) => so(given == keys.mint_instance(id), || format!("{given:?} was taken for {id}"))?,
        Ok(Caller::Launch(id)) => {
            let expiry = given.split('.').nth(2).and_then(|text| text.parse().ok()).map(Timestamp);
            let minted = expiry.map(|expiry| keys.mint_launch(id, expiry));
            so(minted.as_deref() == Some(given) && expiry > Some(NOW), || {
                format!("{given:?} was taken for launch {id}")
            })?;
        }
        Ok(other) => return Err(format!("{given:?} was taken for {other:?}")),
        Err(wrong) => so(!given.is_empty() || !wrong.label().is_empty(), String::new)?,
    }
    if let Ok(chosen) = OperatorToken::new(&header) {
        let length = header.trim().len();
        so(
            (OPERATOR_TOKEN_MIN..=TOKEN_MAX).contains(&length) && chosen.is(header.trim()),
            || "an operator's token that nobody can show".to_owned(),
        )?;
    }
    // Whatever ids the bytes make: what is given out is taken.
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(input) {
        *to = *from;
    }
    let (instance, launch) = (InstanceId(Uuid::from_bytes(bytes)), LaunchId(Uuid::from_bytes(bytes)));
    for (token, who) in [
        (keys.mint_instance(instance), Caller::Instance(instance)),
        (keys.mint_launch(launch, Timestamp(NOW.0 + 1)), Caller::Launch(launch)),
    ] {
        let taken = recognise(Some(&format!("Bearer {token}")), &keys, &operator, NOW);
        so(taken == Ok(who), || format!("a token that was given out is not taken: {token}"))?;
    }
    Ok(())
}
