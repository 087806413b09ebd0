//! What each error code of EC2 means for whoever called: one table, its sources beside it.
//!
//! **Sources.** Each group names where its codes come from: [`COMMON`], [`ACTIONS`] and [`SERVER`] are the three tables of Amazon's page of
//! error codes; [`SDK`] is the list by which Amazon's own client libraries know a throttled or passing error, whatever the service;
//! [`SIGNING`] is the page of errors common to all its services, for what goes wrong before EC2 itself looks at a request.
//!
//! **What is not in the table** is judged by its HTTP status: 429 is throttled, 401 and 403 are credentials, the rest of 4xx is permanent,
//! because the site looked at the request and refused it. Everything else is retryable: 5xx, no answer, half an answer, an answer that
//! cannot be understood. Repeating such a call is harmless, and giving up on it is not.
//!
//! **Judgement calls.** `UnauthorizedOperation` is *credentials* and not *permanent*: who we are lacks a right, and whoever mends that
//! changes a policy, not a template. `Unsupported` is *capacity*: it is what EC2 says of a size that a zone does not have, and
//! the next placement may. `RequestExpired` is *credentials*: a clock is wrong or a session is over, and no repetition mends
//! either.

use crate::iaas::Class;

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html#CommonErrors>
pub const COMMON: &str = "EC2, common client errors";
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html#api-error-codes-table-client>
pub const ACTIONS: &str = "EC2, client errors of actions";
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html#api-error-codes-table-server>
pub const SERVER: &str = "EC2, server errors";
/// `THROTTLING_ERRORS` and `TRANSIENT_ERRORS` of the crate `aws-runtime`, `src/retries/classifiers.rs`.
pub const SDK: &str = "AWS client libraries";
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html> and
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html>
pub const SIGNING: &str = "AWS, errors of all services";

/// What a dry run answers when all is well: no error, though it comes as one.
pub const DRY_RUN: &str = "DryRunOperation";
/// The same client token with another request.
pub const MISMATCH: &str = "IdempotentParameterMismatch";
/// The same client token for machines that have ended.
pub const ENDED: &str = "IdempotentInstanceTerminated";

const TABLE: &[(&str, Class, &str)] = &[
    // Passing troubles of the site, or something that is still going on with the same thing.
    ("ConcurrentTagAccess", Class::Retryable, ACTIONS),
    ("CreditSpecificationUpdateInProgress", Class::Retryable, ACTIONS),
    (ENDED, Class::Retryable, ACTIONS),
    ("IncorrectInstanceState", Class::Retryable, ACTIONS),
    ("IncorrectState", Class::Retryable, ACTIONS),
    ("InternalError", Class::Retryable, SERVER),
    ("InternalFailure", Class::Retryable, SERVER),
    ("InvalidNextToken", Class::Retryable, ACTIONS),
    ("InvalidPaginationToken", Class::Retryable, COMMON),
    ("InvalidState", Class::Retryable, ACTIONS),
    ("RequestTimeout", Class::Retryable, SDK),
    ("RequestTimeoutException", Class::Retryable, SDK),
    ("RetryableError", Class::Retryable, ACTIONS),
    ("ServerInternal", Class::Retryable, SERVER),
    ("ServiceUnavailable", Class::Retryable, SERVER),
    ("Unavailable", Class::Retryable, SERVER),
    // Too many calls.
    ("BandwidthLimitExceeded", Class::Throttled, SDK),
    ("EC2ThrottledException", Class::Throttled, SDK),
    ("LimitExceededException", Class::Throttled, SDK),
    ("PriorRequestNotComplete", Class::Throttled, SDK),
    ("RequestLimitExceeded", Class::Throttled, SERVER),
    ("RequestThrottled", Class::Throttled, SDK),
    ("RequestThrottledException", Class::Throttled, SDK),
    ("SlowDown", Class::Throttled, SDK),
    ("ThrottledException", Class::Throttled, SDK),
    ("Throttling", Class::Throttled, SDK),
    ("ThrottlingException", Class::Throttled, SDK),
    ("TooManyRequestsException", Class::Throttled, SDK),
    // No room now, or not in this zone.
    ("IncompatibleHostRequirements", Class::Capacity, ACTIONS),
    ("InsufficientAddressCapacity", Class::Capacity, SERVER),
    ("InsufficientCapacity", Class::Capacity, SERVER),
    ("InsufficientCapacityOnHost", Class::Capacity, ACTIONS),
    ("InsufficientFreeAddressesInSubnet", Class::Capacity, ACTIONS),
    ("InsufficientHostCapacity", Class::Capacity, SERVER),
    ("InsufficientInstanceCapacity", Class::Capacity, SERVER),
    ("InsufficientReservedInstanceCapacity", Class::Capacity, SERVER),
    ("InsufficientReservedInstancesCapacity", Class::Capacity, ACTIONS),
    ("InsufficientVolumeCapacity", Class::Capacity, SERVER),
    ("ReservationCapacityExceeded", Class::Capacity, ACTIONS),
    ("SpotMaxPriceTooLow", Class::Capacity, ACTIONS),
    ("UnavailableHostRequirements", Class::Capacity, ACTIONS),
    ("UnfulfillableCapacity", Class::Capacity, ACTIONS),
    ("Unsupported", Class::Capacity, ACTIONS),
    ("VolumeTypeNotAvailableInZone", Class::Capacity, ACTIONS),
    // The account may not have more.
    ("AddressLimitExceeded", Class::Quota, ACTIONS),
    ("HostLimitExceeded", Class::Quota, ACTIONS),
    ("InstanceLimitExceeded", Class::Quota, ACTIONS),
    ("MaxIOPSLimitExceeded", Class::Quota, ACTIONS),
    ("MaxScheduledInstanceCapacityExceeded", Class::Quota, ACTIONS),
    ("MaxSpotInstanceCountExceeded", Class::Quota, ACTIONS),
    ("NetworkInterfaceLimitExceeded", Class::Quota, ACTIONS),
    ("PrivateIpAddressLimitExceeded", Class::Quota, ACTIONS),
    ("RequestResourceCountExceeded", Class::Quota, ACTIONS),
    ("ResourceCountExceeded", Class::Quota, ACTIONS),
    ("ResourceLimitExceeded", Class::Quota, ACTIONS),
    ("VcpuLimitExceeded", Class::Quota, ACTIONS),
    ("VolumeLimitExceeded", Class::Quota, ACTIONS),
    // Who we are, and what we may.
    ("AccessDenied", Class::Credentials, SIGNING),
    ("AccessDeniedException", Class::Credentials, SIGNING),
    ("AccountDisabled", Class::Credentials, ACTIONS),
    ("AuthFailure", Class::Credentials, COMMON),
    ("Blocked", Class::Credentials, COMMON),
    ("ExpiredToken", Class::Credentials, SIGNING),
    ("ExpiredTokenException", Class::Credentials, SIGNING),
    ("IncompleteSignature", Class::Credentials, COMMON),
    ("InvalidAccessKeyId", Class::Credentials, SIGNING),
    ("InvalidClientTokenId", Class::Credentials, COMMON),
    ("InvalidSecurity.RequestHasExpired", Class::Credentials, ACTIONS),
    ("MissingAuthenticationToken", Class::Credentials, COMMON),
    ("NotAuthorized", Class::Credentials, SIGNING),
    ("OptInRequired", Class::Credentials, COMMON),
    ("PendingVerification", Class::Credentials, COMMON),
    ("RequestExpired", Class::Credentials, COMMON),
    ("RequestTimeTooSkewed", Class::Credentials, SIGNING),
    ("SignatureDoesNotMatch", Class::Credentials, ACTIONS),
    ("TokenRefreshRequired", Class::Credentials, SIGNING),
    ("UnauthorizedOperation", Class::Credentials, COMMON),
    ("UnrecognizedClientException", Class::Credentials, SIGNING),
    // It will never work as it is.
    ("AttachmentLimitExceeded", Class::Permanent, ACTIONS),
    ("BootForVolumeTypeUnsupported", Class::Permanent, ACTIONS),
    ("ClientInvalidParameterValue", Class::Permanent, ACTIONS),
    ("CustomerKeyHasBeenRevoked", Class::Permanent, ACTIONS),
    ("DefaultVpcDoesNotExist", Class::Permanent, ACTIONS),
    ("EncryptedVolumesNotSupported", Class::Permanent, ACTIONS),
    (MISMATCH, Class::Changed, COMMON),
    ("InvalidAMIID.Malformed", Class::Permanent, ACTIONS),
    ("InvalidAMIID.NotFound", Class::Permanent, ACTIONS),
    ("InvalidAMIID.Unavailable", Class::Permanent, ACTIONS),
    ("InvalidAction", Class::Permanent, COMMON),
    ("InvalidAvailabilityZone", Class::Permanent, ACTIONS),
    ("InvalidBlockDeviceMapping", Class::Permanent, ACTIONS),
    ("InvalidCharacter", Class::Permanent, COMMON),
    ("InvalidClientToken", Class::Permanent, ACTIONS),
    ("InvalidFilter", Class::Permanent, ACTIONS),
    ("InvalidGroup.NotFound", Class::Permanent, ACTIONS),
    ("InvalidGroupId.Malformed", Class::Permanent, ACTIONS),
    ("InvalidIamInstanceProfileArn.Malformed", Class::Permanent, ACTIONS),
    ("InvalidInput", Class::Permanent, ACTIONS),
    ("InvalidInstanceAttributeValue", Class::Permanent, ACTIONS),
    ("InvalidInstanceID.Malformed", Class::Permanent, ACTIONS),
    ("InvalidInstanceID.NotFound", Class::Permanent, ACTIONS),
    ("InvalidInstanceType", Class::Permanent, ACTIONS),
    ("InvalidKeyPair.NotFound", Class::Permanent, ACTIONS),
    ("InvalidLaunchTemplateId.Malformed", Class::Permanent, ACTIONS),
    ("InvalidLaunchTemplateId.NotFound", Class::Permanent, ACTIONS),
    ("InvalidLaunchTemplateId.VersionNotFound", Class::Permanent, ACTIONS),
    ("InvalidLaunchTemplateName.MalformedException", Class::Permanent, ACTIONS),
    ("InvalidLaunchTemplateName.NotFoundException", Class::Permanent, ACTIONS),
    ("InvalidMaxResults", Class::Permanent, ACTIONS),
    ("InvalidParameter", Class::Permanent, COMMON),
    ("InvalidParameterCombination", Class::Permanent, COMMON),
    ("InvalidParameterDependency", Class::Permanent, COMMON),
    ("InvalidParameterValue", Class::Permanent, COMMON),
    ("InvalidQueryParameter", Class::Permanent, COMMON),
    ("InvalidRequest", Class::Permanent, ACTIONS),
    ("InvalidSecurityGroupID.NotFound", Class::Permanent, ACTIONS),
    ("InvalidSecurityGroupId.Malformed", Class::Permanent, ACTIONS),
    ("InvalidSnapshot.NotFound", Class::Permanent, ACTIONS),
    ("InvalidSubnet", Class::Permanent, ACTIONS),
    ("InvalidSubnetID.Malformed", Class::Permanent, ACTIONS),
    ("InvalidSubnetID.NotFound", Class::Permanent, ACTIONS),
    ("InvalidSubnetId.NotFound", Class::Permanent, ACTIONS),
    ("InvalidTagKey.Malformed", Class::Permanent, ACTIONS),
    ("InvalidTenancy", Class::Permanent, ACTIONS),
    ("InvalidZone.NotFound", Class::Permanent, ACTIONS),
    ("MalformedQueryString", Class::Permanent, COMMON),
    ("MissingAction", Class::Permanent, COMMON),
    ("MissingInput", Class::Permanent, ACTIONS),
    ("MissingParameter", Class::Permanent, COMMON),
    ("OperationNotPermitted", Class::Permanent, ACTIONS),
    ("SecurityGroupsPerInstanceLimitExceeded", Class::Permanent, ACTIONS),
    ("SecurityGroupsPerInterfaceLimitExceeded", Class::Permanent, ACTIONS),
    ("TagLimitExceeded", Class::Permanent, ACTIONS),
    ("TagPolicyViolation", Class::Permanent, COMMON),
    ("UnknownParameter", Class::Permanent, COMMON),
    ("UnknownVolumeType", Class::Permanent, ACTIONS),
    ("UnsupportedInstanceAttribute", Class::Permanent, COMMON),
    ("UnsupportedOperation", Class::Permanent, COMMON),
    ("UnsupportedProtocol", Class::Permanent, COMMON),
    ("VPCIdNotSpecified", Class::Permanent, ACTIONS),
    ("VPCResourceNotSpecified", Class::Permanent, ACTIONS),
    ("ValidationError", Class::Permanent, COMMON),
    ("VolumeIOPSLimit", Class::Permanent, ACTIONS),
];

/// Every code that is known, with its class and where it is described. `docs/ec2.md` shows the same.
#[must_use]
pub fn table() -> &'static [(&'static str, Class, &'static str)] {
    TABLE
}

/// The code without the word `Client.` or `Server.` that some clouds put before it.
#[must_use]
pub fn plain(code: &str) -> &str {
    code.strip_prefix("Client.")
        .or_else(|| code.strip_prefix("Server."))
        .unwrap_or(code)
}

/// What is to be done about an answer with this code and this HTTP status. No code: the answer could not be understood; no status:
/// there was none.
#[must_use]
pub fn classify(code: Option<&str>, status: Option<u16>) -> Class {
    let known = code.and_then(|code| TABLE.iter().find(|(known, ..)| *known == plain(code)));
    match (known, code, status) {
        (Some((_, class, _)), ..) => *class,
        (None, _, Some(429)) => Class::Throttled,
        (None, _, Some(401 | 403)) => Class::Credentials,
        (None, Some(_), Some(400..=499)) => Class::Permanent,
        (None, ..) => Class::Retryable,
    }
}

/// What to do about a code, where the site's own text does not say it.
#[must_use]
pub fn advice(code: &str) -> Option<&'static str> {
    Some(match plain(code) {
        "RequestExpired" | "RequestTimeTooSkewed" | "InvalidSecurity.RequestHasExpired" => {
            "this machine's clock and the site's differ too much (set it; chrony or ntpd keeps it right), or temporary credentials are over"
        }
        "AuthFailure" | "InvalidClientTokenId" | "InvalidAccessKeyId" | "UnrecognizedClientException" => {
            "the site does not know the access key: correct the site's `credentials`, and see that they belong to its `region` and `endpoint`"
        }
        "SignatureDoesNotMatch" | "IncompleteSignature" => {
            "the secret access key is not that of the access key: correct the site's `credentials`"
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            "the session token is over: renew it where `credentials` points; it is read anew with each call"
        }
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "NotAuthorized" => {
            "these credentials lack the right: add it to their policy, docs/ec2.md has one that suffices"
        }
        "OptInRequired" => "the account has to subscribe first: to the region, or to the image's terms in the marketplace",
        "PendingVerification" => "the vendor is still verifying the account, which can take some hours: wait for its mail",
        "Blocked" => "the vendor has blocked the account: ask its support",
        MISMATCH => {
            "the same launch was asked for before with other contents, as by another release or other site settings: this one is not \
             repeated, the pool launches anew"
        }
        "OperationNotPermitted" => "the machine may be protected against termination: take that off, or end it by hand",
        "InvalidAMIID.NotFound" | "InvalidAMIID.Malformed" | "InvalidAMIID.Unavailable" => {
            "correct `machine.image`; an image belongs to one region, and must be shared with this account"
        }
        "VPCIdNotSpecified" | "VPCResourceNotSpecified" | "DefaultVpcDoesNotExist" => {
            "the account has no default network: give `machine.subnet`"
        }
        "VcpuLimitExceeded" | "InstanceLimitExceeded" | "MaxSpotInstanceCountExceeded" => {
            "ask the vendor for a higher quota in this region, or lower the placement's maximum"
        }
        "ResourceCountExceeded" | "RequestResourceCountExceeded" => {
            "one call may not ask for so many machines: lower the site's `launch-most`"
        }
        "AccountDisabled" => "the vendor has switched this off for the account: ask its support",
        "MissingAuthenticationToken" => "the call carried no credentials: correct the site's `credentials`",
        "SpotMaxPriceTooLow" => "raise `market.spot.max-price`, or leave it out to pay up to the on-demand price",
        "InsufficientFreeAddressesInSubnet" => "use a larger subnet, or a placement in another one",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_code_is_there_twice() {
        let codes: BTreeSet<&str> = TABLE.iter().map(|(code, ..)| *code).collect();
        assert_eq!(codes.len(), TABLE.len());
    }

    #[test]
    fn what_is_not_in_the_table_is_judged_by_its_status() {
        assert_eq!(classify(Some("InsufficientInstanceCapacity"), Some(500)), Class::Capacity);
        assert_eq!(classify(Some("Server.InsufficientInstanceCapacity"), Some(500)), Class::Capacity);
        assert_eq!(classify(Some("Client.AuthFailure"), None), Class::Credentials);
        assert_eq!(classify(Some("InvalidSomethingNew.Odd"), Some(400)), Class::Permanent);
        assert_eq!(classify(Some("SomethingNew"), Some(503)), Class::Retryable);
        assert_eq!(classify(Some("SomethingNew"), Some(429)), Class::Throttled);
        assert_eq!(classify(Some("SomethingNew"), Some(403)), Class::Credentials);
        assert_eq!(classify(None, Some(403)), Class::Credentials);
        assert_eq!(classify(None, Some(404)), Class::Retryable, "not understood, so not refused");
        assert_eq!(classify(None, Some(200)), Class::Retryable);
        assert_eq!(classify(None, None), Class::Retryable);
    }

    #[test]
    fn whatever_tells_a_person_says_what_to_do() {
        for code in [
            "RequestExpired",
            "AuthFailure",
            "UnauthorizedOperation",
            "VcpuLimitExceeded",
            "IdempotentParameterMismatch",
        ] {
            assert!(advice(code).is_some(), "{code}");
        }
        for (code, class, _) in TABLE {
            assert!(*class != Class::Credentials || advice(code).is_some(), "{code}");
        }
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ec2.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let rows: String = TABLE
            .iter()
            .map(|(code, class, source)| format!("| `{code}` | {} | {source} |\n", class.word()))
            .collect();
        assert!(docs.contains(&rows), "docs/ec2.md wants this table:\n\n{rows}");
    }
}
