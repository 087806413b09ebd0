//! Percent-coding (RFC 3986) and base64 (RFC 4648), as addresses and the `Authorization` header need them.

/// A text as one segment of a path: everything but unreserved characters is written `%XX`.
pub(crate) fn percent_encode(text: &str) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let mut coded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            coded.push(char::from(byte));
        } else {
            coded.push('%');
            coded.push(DIGITS[usize::from(byte >> 4)]);
            coded.push(DIGITS[usize::from(byte & 15)]);
        }
    }
    coded
}

/// What was percent-coded; none when a `%` is not followed by two hex digits or the result is no UTF-8.
pub(crate) fn percent_decode(coded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(coded.len());
    let mut rest = coded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut coded = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let all = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4_usize {
            if place > three.len() {
                coded.push('=');
            } else {
                let digit = usize::try_from(all >> (18 - 6 * place) & 63).unwrap_or(0);
                coded.push(char::from(DIGITS[digit]));
            }
        }
    }
    coded
}

/// At most `most` characters of a text that came from outside, without control characters, so that it fits in a line.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_coding_goes_there_and_back() {
        assert_eq!(percent_encode("/"), "%2F");
        assert_eq!(percent_encode("a b/é~._-"), "a%20b%2F%C3%A9~._-");
        for text in ["", "/", "my vhost", "é%2F", "100%"] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        for wrong in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert_eq!(percent_decode(wrong), None, "{wrong}");
        }
    }

    /// The test vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn text_from_outside_is_bounded() {
        assert_eq!(shortened("a\nb", 10), "a b");
        assert_eq!(shortened(&"é".repeat(50), 3), "ééé...");
    }
}
