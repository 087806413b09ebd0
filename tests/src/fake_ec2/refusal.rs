//! What EC2 answers when it does not do what was asked.

use super::xml::Xml;

/// An error as EC2 gives it.
///
/// Source of the codes: "Error codes for the Amazon EC2 API", <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The code, such as `InvalidInstanceID.NotFound`.
    pub code: String,
    /// What it says.
    pub message: String,
}

/// What a refused or a successful action gives.
pub type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    /// An error with the status that goes with its code.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            status: status_of(code),
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// A value that is not allowed there.
    #[must_use]
    pub fn value(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    /// Parameters that exclude each other.
    #[must_use]
    pub fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    /// As EC2 writes it. Source: same page, section "Error response example": no namespace, `RequestID` with a capital D.
    #[must_use]
    pub fn document(&self, request: &str) -> String {
        let mut xml = Xml("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned());
        xml.within("Response", |xml| {
            xml.within("Errors", |xml| {
                xml.within("Error", |xml| {
                    xml.leaf("Code", &self.code).leaf("Message", &self.message);
                });
            });
            xml.leaf("RequestID", request);
        });
        xml.0
    }

    /// As STS writes it. Source: "Common Errors" and the examples of the AWS STS API reference,
    /// <https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html>.
    #[must_use]
    pub fn document_of_sts(&self, request: &str) -> String {
        let mut xml = Xml("<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">".to_owned());
        xml.within("Error", |xml| {
            let side = if self.status < 500 { "Sender" } else { "Receiver" };
            xml.leaf("Type", side).leaf("Code", &self.code).leaf("Message", &self.message);
        });
        xml.leaf("RequestId", request).close("ErrorResponse");
        xml.0
    }
}

/// The HTTP status of a code. Source: "Error codes for the Amazon EC2 API": client errors have a 400-series status, server errors (the
/// table "Server error codes") one of the 500 series. Which one exactly is what EC2 is seen to send.
#[must_use]
pub fn status_of(code: &str) -> u16 {
    match code {
        "AuthFailure" | "MissingAuthenticationToken" => 401,
        "UnauthorizedOperation" | "Blocked" | "OptInRequired" | "InvalidClientTokenId" | "ExpiredToken" => 403,
        "DryRunOperation" => 412,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientAddressCapacity"
        | "InternalError"
        | "InternalFailure" => 500,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::super::xml;
    use super::*;

    #[test]
    fn an_error_has_the_shape_that_the_documentation_shows() {
        let refusal = Refusal::new("InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist");
        let root = xml::read(&refusal.document("ea966190-f9aa-478e-9ede-example")).unwrap();
        assert_eq!(root.name, "Response");
        assert_eq!(root.text_of("Errors/Error/Code"), "InvalidInstanceID.NotFound");
        assert_eq!(root.text_of("Errors/Error/Message"), "The instance ID 'i-1' does not exist");
        assert_eq!(root.text_of("RequestID"), "ea966190-f9aa-478e-9ede-example");
    }

    #[test]
    fn client_errors_are_of_the_400_series_and_server_errors_of_the_500_series() {
        for code in [
            "IdempotentParameterMismatch",
            "InvalidAction",
            "VcpuLimitExceeded",
            "RequestExpired",
        ] {
            assert_eq!(status_of(code), 400, "{code}");
        }
        assert_eq!(status_of("InsufficientInstanceCapacity"), 500);
        assert_eq!(status_of("RequestLimitExceeded"), 503);
        assert_eq!(status_of("DryRunOperation"), 412);
    }
}
