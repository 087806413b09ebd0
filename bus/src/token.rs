//! What an agent or an operator shows to be let in.
//!
//! A launch token goes out in user data and says "I belong to launch L", until a time that stands in it. An instance token is
//! what the agent gets in exchange, and says "I am instance I". Both are an HMAC of what they say, so that none is stored and
//! every process that has the installation's secret can make and check them:
//!
//! ```text
//! l.<launch uuid>.<expiry, ms since 1970>.<hex hmac-sha256 of all before the last dot>
//! i.<instance uuid>.<hex hmac-sha256 of all before the last dot>
//! ```
//!
//! The two kinds have keys of their own, derived from the secret, so that no text of one kind is ever good as the other. The
//! signature is checked before anything that the token says is believed. An operator's token says nothing: it is random, and
//! compared as a whole. All comparisons take the same time wherever the difference is.

use std::fmt;

use epu_core::id::{InstanceId, LaunchId};
use epu_core::time::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The shortest secret that keys are made from, in bytes. Shorter ones can be guessed.
pub const SECRET_MIN: usize = 32;
/// The shortest operator token, in characters. Shorter ones can be guessed.
pub const OPERATOR_TOKEN_MIN: usize = 16;
/// The longest text that is looked at as a token; longer is malformed.
pub const TOKEN_MAX: usize = 256;

/// Why a secret or a token cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too few bytes.
    #[error("the installation's secret has {0} bytes; it needs {SECRET_MIN} or more")]
    ShortSecret(usize),
    /// Too few characters, or too many, or some that no header can carry.
    #[error(
        "an operator token has {OPERATOR_TOKEN_MIN} to {TOKEN_MAX} letters, digits or signs without blanks, \
         and does not begin with 'l.' or 'i.'"
    )]
    BadOperatorToken,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
}

/// Whom a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearer {
    /// An agent of this launch that does not yet know which instance it is.
    Launch(LaunchId),
    /// The agent of this instance.
    Instance(InstanceId),
}

/// Why a token is not good. The words are metric labels; they say nothing of what was in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// There is none.
    #[error("no token")]
    Missing,
    /// It has no form that we know.
    #[error("not a token of any known form")]
    Malformed,
    /// It has the form of a launch token that we did not make.
    #[error("not a launch token of this installation")]
    Launch,
    /// It was a launch token.
    #[error("the launch token has expired")]
    LaunchExpired,
    /// It has the form of an instance token that we did not make.
    #[error("not an instance token of this installation")]
    Instance,
    /// It is not the operator's.
    #[error("not the operator token of this installation")]
    Operator,
}

impl Wrong {
    /// For metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "no-token",
            Self::Malformed => "malformed-token",
            Self::Launch => "launch-token",
            Self::LaunchExpired => "launch-token-expired",
            Self::Instance => "instance-token",
            Self::Operator => "operator-token",
        }
    }
}

/// The keys of an installation. Cheap to clone; shows itself without the keys.
#[derive(Clone)]
pub struct Keyring {
    launch: hmac::Key,
    instance: hmac::Key,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Keyring(***)")
    }
}

impl Keyring {
    /// The keys that follow from a secret; always the same ones from the same secret.
    ///
    /// # Errors
    /// When the secret is shorter than [`SECRET_MIN`].
    pub fn new(secret: &[u8]) -> Result<Self, Error> {
        if secret.len() < SECRET_MIN {
            return Err(Error::ShortSecret(secret.len()));
        }
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref());
        Ok(Self {
            launch: derived(b"epu launch token"),
            instance: derived(b"epu instance token"),
        })
    }

    /// A launch's token, good until `expiry`. The same launch and expiry always give the same text.
    #[must_use]
    pub fn mint_launch(&self, launch: LaunchId, expiry: Timestamp) -> String {
        signed(&self.launch, format!("l.{launch}.{}", expiry.0))
    }

    /// An instance's token. The same instance always gives the same text.
    #[must_use]
    pub fn mint_instance(&self, instance: InstanceId) -> String {
        signed(&self.instance, format!("i.{instance}"))
    }

    /// Whom an agent's token is good for.
    ///
    /// # Errors
    /// [`Wrong`] says what is wrong with it.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Bearer, Wrong> {
        if token.is_empty() {
            return Err(Wrong::Missing);
        }
        if token.len() > TOKEN_MAX {
            return Err(Wrong::Malformed);
        }
        let (said, signature) = token.rsplit_once('.').ok_or(Wrong::Malformed)?;
        let signature = unhex(signature).ok_or(Wrong::Malformed)?;
        if let Some(said_of_launch) = said.strip_prefix("l.") {
            hmac::verify(&self.launch, said.as_bytes(), &signature).map_err(|_| Wrong::Launch)?;
            let (launch, expiry) = said_of_launch.split_once('.').ok_or(Wrong::Malformed)?;
            let launch = launch.parse().map_err(|_| Wrong::Malformed)?;
            let expiry = expiry.parse().map(Timestamp).map_err(|_| Wrong::Malformed)?;
            if now >= expiry {
                return Err(Wrong::LaunchExpired);
            }
            Ok(Bearer::Launch(launch))
        } else if let Some(instance) = said.strip_prefix("i.") {
            hmac::verify(&self.instance, said.as_bytes(), &signature).map_err(|_| Wrong::Instance)?;
            instance.parse().map(Bearer::Instance).map_err(|_| Wrong::Malformed)
        } else {
            Err(Wrong::Malformed)
        }
    }
}

/// The operator's token, kept as what is needed to recognise it. Shows itself without it.
#[derive(Clone)]
pub struct OperatorToken {
    key: hmac::Key,
    mark: hmac::Tag,
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("OperatorToken(***)")
    }
}

impl OperatorToken {
    /// The token as it stands in its file; white space around it does not count.
    ///
    /// # Errors
    /// When it is empty or otherwise too easy to guess, or could be mistaken for an agent's.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let fits = (OPERATOR_TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if !fits || looks_like_agents(text) {
            return Err(Error::BadOperatorToken);
        }
        // Comparing two HMACs takes the same time whatever the texts; the key need only be unknown to whoever guesses.
        let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
        let mark = hmac::sign(&key, text.as_bytes());
        Ok(Self { key, mark })
    }

    /// Whether this is the token.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        text.len() <= TOKEN_MAX && hmac::verify(&self.key, text.as_bytes(), self.mark.as_ref()).is_ok()
    }
}

/// Whether a text has the beginning of an agent's token.
#[must_use]
pub fn looks_like_agents(token: &str) -> bool {
    token.starts_with("l.") || token.starts_with("i.")
}

/// A new secret or operator token: 32 random bytes as 64 hex digits.
///
/// # Errors
/// When the operating system gives none.
pub fn fresh_secret() -> Result<String, Error> {
    let mut bytes = [0_u8; SECRET_MIN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    let mut text = String::with_capacity(2 * SECRET_MIN);
    push_hex(&mut text, &bytes);
    Ok(text)
}

fn signed(key: &hmac::Key, said: String) -> String {
    let signature = hmac::sign(key, said.as_bytes());
    let mut token = said;
    token.push('.');
    push_hex(&mut token, signature.as_ref());
    token
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// 32 bytes from 64 lower-case hex digits; upper case is refused, so that a token has one form only.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_763_840_236_000);

    fn keys() -> Keyring {
        Keyring::new(&[7; 32]).unwrap()
    }

    fn launch() -> LaunchId {
        "0193a5a0-0000-7000-8000-000000000001".parse().unwrap()
    }

    fn instance() -> InstanceId {
        "0193a5a0-0000-7000-8000-000000000002".parse().unwrap()
    }

    #[test]
    fn tokens_are_good_for_what_they_say_and_always_the_same() {
        let token = keys().mint_launch(launch(), Timestamp(NOW.0 + 1));
        assert_eq!(token, keys().mint_launch(launch(), Timestamp(NOW.0 + 1)));
        assert_eq!(keys().verify(&token, NOW), Ok(Bearer::Launch(launch())));
        let token = keys().mint_instance(instance());
        assert_eq!(keys().verify(&token, Timestamp::NEVER), Ok(Bearer::Instance(instance())));
    }

    /// Agents of an older release keep their tokens: a change of these texts locks every running instance out.
    #[test]
    fn the_form_of_tokens_does_not_change() {
        assert_eq!(
            keys().mint_launch(launch(), NOW),
            "l.0193a5a0-0000-7000-8000-000000000001.1763840236000.8079e89f4745b561b948fdfd0855b1cb832090f6ad7b1801426184c96286f7b4"
        );
        assert_eq!(
            keys().mint_instance(instance()),
            "i.0193a5a0-0000-7000-8000-000000000002.37c4221459e48356e02ac59fffda3180adfd158ac5b7db311578638b38169de6"
        );
    }

    #[test]
    fn a_launch_token_expires_and_an_instance_token_does_not() {
        let token = keys().mint_launch(launch(), NOW);
        assert_eq!(keys().verify(&token, Timestamp(NOW.0 - 1)), Ok(Bearer::Launch(launch())));
        assert_eq!(keys().verify(&token, NOW), Err(Wrong::LaunchExpired));
    }

    #[test]
    fn no_changed_character_is_taken() {
        for token in [keys().mint_launch(launch(), Timestamp::NEVER), keys().mint_instance(instance())] {
            for at in 0..token.len() {
                for other in ['0', 'f', '.', 'x', 'l', 'i', 'A'] {
                    let mut changed: Vec<char> = token.chars().collect();
                    if changed[at] == other {
                        continue;
                    }
                    changed[at] = other;
                    let changed: String = changed.into_iter().collect();
                    assert!(keys().verify(&changed, NOW).is_err(), "{changed} was taken");
                }
            }
            for cut in 0..token.len() {
                assert!(keys().verify(&token[..cut], NOW).is_err(), "{} was taken", &token[..cut]);
            }
            assert!(keys().verify(&format!("{token}0"), NOW).is_err());
            assert!(keys().verify(&token.to_uppercase(), NOW).is_err());
        }
    }

    #[test]
    fn another_installation_s_tokens_are_told_by_kind() {
        let others = Keyring::new(&[8; 32]).unwrap();
        assert_eq!(
            keys().verify(&others.mint_launch(launch(), Timestamp::NEVER), NOW),
            Err(Wrong::Launch)
        );
        assert_eq!(keys().verify(&others.mint_instance(instance()), NOW), Err(Wrong::Instance));
    }

    #[test]
    fn one_kind_never_passes_for_the_other() {
        // The signature of a launch token under another beginning, and the other way round.
        let token = keys().mint_instance(instance());
        let signature = token.rsplit_once('.').unwrap().1;
        assert_eq!(keys().verify(&format!("l.{}.9.{signature}", launch()), NOW), Err(Wrong::Launch));
        let same_text = hmac::sign(&keys().launch, format!("i.{}", instance()).as_bytes());
        let mut forged = format!("i.{}.", instance());
        push_hex(&mut forged, same_text.as_ref());
        assert_eq!(keys().verify(&forged, NOW), Err(Wrong::Instance));
    }

    #[test]
    fn texts_that_are_no_tokens_are_malformed() {
        for text in [
            "x",
            "l.",
            "i..",
            "l.a.b.c",
            "....",
            "é.é",
            &"i.".repeat(300),
            &format!("z.{}", "0".repeat(64)),
        ] {
            assert_eq!(keys().verify(text, NOW), Err(Wrong::Malformed), "{text}");
        }
        assert_eq!(keys().verify("", NOW), Err(Wrong::Missing));
    }

    #[test]
    fn a_weak_secret_is_refused() {
        assert_eq!(Keyring::new(&[1; 31]).err(), Some(Error::ShortSecret(31)));
        for weak in [
            "",
            "   ",
            "short",
            "fifteen-letters",
            "l.0123456789abcdef",
            "i.0123456789abcdef",
            "has a blank in it",
        ] {
            assert!(OperatorToken::new(weak).is_err(), "{weak:?} was taken");
        }
        assert!(OperatorToken::new(&"x".repeat(257)).is_err());
    }

    #[test]
    fn the_operator_s_token_is_recognised_whole() {
        let text = fresh_secret().unwrap();
        let token = OperatorToken::new(&format!("{text}\n")).unwrap();
        assert!(token.is(&text));
        for other in ["", &text[1..], &format!("{text} "), &fresh_secret().unwrap()] {
            assert!(!token.is(other), "{other:?} was taken");
        }
    }

    #[test]
    fn nothing_shows_a_key() {
        assert_eq!(format!("{:?}", keys()), "Keyring(***)");
        let token = OperatorToken::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{token:?}"), "OperatorToken(***)");
    }
}
