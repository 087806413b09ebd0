//! What came of a call that failed: which code the site gave, and what is to be done about it.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use epu_core::code::Chain;

use super::classes;
use crate::iaas::{Class, IaasError};

/// The longest part of a text of the site's that is kept: an encoded authorization failure has thousands of characters.
const TEXT_MOST: usize = 600;

/// The longest part of it that is looked through for ids: a refusal of a thousand machines names all of them in some 20 KB.
const MESSAGE_MOST: usize = 64 * 1_024;

/// A call that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The site's code, when it answered.
    pub(super) code: Option<String>,
    /// The site's own text, for finding ids in it; never shown.
    pub(super) message: String,
    /// Nothing was sent, because no credentials were found where they are looked for.
    pub(super) is_keyless: bool,
    /// The same for whoever called.
    pub(super) error: IaasError,
}

impl Failure {
    pub(super) fn new(class: Class, doing: impl Display, why: impl Display) -> Self {
        Self {
            code: None,
            message: String::new(),
            is_keyless: false,
            error: IaasError::new(class, format!("{doing}: {why}")),
        }
    }

    pub(super) fn late(doing: impl Display, within: Duration) -> Self {
        Self::new(Class::Retryable, doing, format!("no answer within {}", epu_core::Span(within)))
    }

    pub(super) fn of<E>(doing: impl Display, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                Self::answered(doing, answer.err().code(), answer.err().message(), status)
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let why = format!("HTTP {status} with an answer that cannot be understood: {}", Chain(error));
                Self::new(classes::classify(None, Some(status)), doing, cut(&why))
            }
            SdkError::TimeoutError(_) => Self::new(Class::Retryable, doing, "no answer in time"),
            SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) | _ => match credentials(error) {
                Some(Keyless { class, is_missing, why }) => Self {
                    is_keyless: is_missing,
                    ..Self::new(class, doing, format!("no credentials: {why}"))
                },
                None => Self::new(
                    Class::Retryable,
                    doing,
                    format!("the site cannot be reached: {}", cut(&Chain(error).to_string())),
                ),
            },
        }
    }

    /// An answer that says no.
    pub(super) fn answered(doing: impl Display, code: Option<&str>, message: Option<&str>, status: u16) -> Self {
        let whole = message.unwrap_or_default();
        let message = cut(whole);
        let class = classes::classify(code, Some(status));
        let mut why = match code {
            Some(code) => format!("{code}: {message}"),
            None => format!("HTTP {status} without an error code: {message}"),
        };
        if let Some(advice) = code.and_then(classes::advice) {
            why = format!("{}; {advice}", why.trim_end_matches(['.', ' ', ':']));
        }
        Self {
            code: code.map(|code| classes::plain(code).to_owned()),
            message: whole[..whole.floor_char_boundary(MESSAGE_MOST)].to_owned(),
            is_keyless: false,
            error: IaasError::new(class, format!("{doing}: {why}")),
        }
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the site says that it does not know machines that were named.
    pub(super) fn is_about_ids(&self) -> bool {
        self.is("InvalidInstanceID.NotFound") || self.is("InvalidInstanceID.Malformed") || self.is("InvalidID")
    }
}

impl From<Failure> for IaasError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// Why there are no credentials.
struct Keyless {
    class: Class,
    /// None were found. Where some were found before, that passes: a file is being replaced, or whoever gives them out is away.
    is_missing: bool,
    why: String,
}

/// Whether nothing was sent because there are no credentials, and whether that may pass. Whoever is asked for them can be away for a
/// while; only settings that cannot be, and credentials that never were, need a person.
fn credentials(error: &(dyn Error + 'static)) -> Option<Keyless> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<CredentialsError>() {
            let class = match found {
                CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => Class::Credentials,
                CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) | CredentialsError::Unhandled(_) | _ => {
                    Class::Retryable
                }
            };
            return Some(Keyless {
                class,
                is_missing: matches!(found, CredentialsError::CredentialsNotLoaded(_)),
                why: cut(&Chain(found).to_string()),
            });
        }
        next = cause.source();
    }
    None
}

/// The beginning of a text, as one line.
pub(super) fn cut(text: &str) -> String {
    let mut line: String = text.chars().take(TEXT_MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(TEXT_MOST).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_site_says_is_told_with_what_to_do() {
        let failure = Failure::answered(
            "launch 3 machines",
            Some("Client.UnauthorizedOperation"),
            Some(&"You may not.".repeat(99)),
            403,
        );
        assert!(failure.is("UnauthorizedOperation"));
        assert_eq!(failure.error.class, Class::Credentials);
        assert!(
            failure
                .error
                .text
                .starts_with("launch 3 machines: Client.UnauthorizedOperation: You may not.")
        );
        assert!(failure.error.text.contains("docs/ec2.md"), "{}", failure.error.text);
        assert!(failure.error.text.len() < 1_000, "{}", failure.error.text.len());
        let odd = Failure::answered("list", None, None, 502);
        assert_eq!((odd.error.class, odd.code), (Class::Retryable, None));
    }
}
