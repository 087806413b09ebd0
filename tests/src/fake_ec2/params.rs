//! Parameters of the Query protocol: `Name=value` pairs, form-encoded, lists as `Name.1`, `Name.2`, structures as `Name.Part`.
//!
//! Source: "Making requests to the Amazon EC2 API", <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-requests.html>: a request is
//! a GET with the pairs in its query, or a POST with them in its body.

use std::collections::BTreeMap;

use super::refusal::{Outcome, Refusal};

/// Most pairs of one request; a terminate of a thousand machines has a thousand.
const MAX_PAIRS: usize = 20_000;

/// What a request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads pairs from a query and a body; the body wins.
    ///
    /// # Errors
    /// `MalformedQueryString` when something is not form-encoded UTF-8, or there is too much of it.
    pub fn read(query: &str, body: &str) -> Outcome<Self> {
        let malformed = |pair: &str| Refusal::new("MalformedQueryString", format!("cannot read {pair:?}"));
        let mut pairs = BTreeMap::new();
        for pair in query.split('&').chain(body.trim().split('&')).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or_else(|| malformed(pair))?;
            let value = decode(value).ok_or_else(|| malformed(pair))?;
            pairs.insert(name, value);
            if pairs.len() > MAX_PAIRS {
                return Err(Refusal::new("MalformedQueryString", format!("more than {MAX_PAIRS} parameters")));
            }
        }
        Ok(Self(pairs))
    }

    /// One value; an empty one is as good as none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// One value that must be there.
    ///
    /// # Errors
    /// `MissingParameter`.
    pub fn required(&self, name: &str) -> Outcome<&str> {
        self.get(name)
            .ok_or_else(|| Refusal::new("MissingParameter", format!("The request must contain the parameter {name}")))
    }

    /// A number.
    ///
    /// # Errors
    /// `InvalidParameterValue` when it is none.
    pub fn number(&self, name: &str) -> Outcome<Option<u32>> {
        let read = |text: &str| {
            let wrong = || Refusal::value(format!("Value ( {text} ) for parameter {name} is invalid. Invalid integer."));
            text.parse().map_err(|_| wrong())
        };
        self.get(name).map(read).transpose()
    }

    /// `true` or `false`; left out, it is false.
    ///
    /// # Errors
    /// `InvalidParameterValue` when it is neither.
    pub fn flag(&self, name: &str) -> Outcome<bool> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Refusal::value(format!(
                "Value ({other}) for parameter {name} is invalid. It must be true or false"
            ))),
        }
    }

    /// The values `name.1`, `name.2`, ... in the order of their numbers.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<&str> {
        let mut found: BTreeMap<u32, &str> = BTreeMap::new();
        for (key, value) in self.under(name) {
            if let Ok(number) = key.parse() {
                found.insert(number, value);
            }
        }
        found.into_values().collect()
    }

    /// The structures `name.1.*`, `name.2.*`, ... in the order of their numbers.
    #[must_use]
    pub fn groups(&self, name: &str) -> Vec<Self> {
        let mut found: BTreeMap<u32, Self> = BTreeMap::new();
        for (key, value) in self.under(name) {
            if let Some((number, rest)) = key.split_once('.')
                && let Ok(number) = number.parse()
            {
                found.entry(number).or_default().0.insert(rest.to_owned(), value.to_owned());
            }
        }
        found.into_values().collect()
    }

    /// Whether anything of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some() || self.under(name).next().is_some()
    }

    fn under<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let prefix = format!("{name}.");
        let pairs = self.0.range(prefix.clone()..);
        pairs.map_while(move |(key, value)| Some((key.strip_prefix(&prefix)?, value.as_str())))
    }

    /// Source: "Error codes for the Amazon EC2 API", `UnknownParameter`: an unknown or unrecognized parameter was supplied.
    ///
    /// # Errors
    /// `UnknownParameter`, for the first whose name before the first dot is not known.
    pub fn refuse_unknown(&self, known: &[&str]) -> Outcome<()> {
        for key in self.0.keys() {
            let first = key.split('.').next().unwrap_or(key);
            if !known.contains(&first) && !["Action", "Version", "DryRun"].contains(&first) {
                return Err(Refusal::new("UnknownParameter", format!("The parameter {first} is not recognized")));
            }
        }
        Ok(())
    }

    /// The same pairs in the same order for the same request, whatever order they were sent in.
    #[must_use]
    pub fn canonical(&self) -> String {
        let pairs = self.0.iter().filter(|(key, _)| *key != "DryRun");
        pairs.map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    /// These over those: what is set here, with its whole list or structure, wins.
    #[must_use]
    pub fn over(&self, below: &BTreeMap<String, String>) -> Self {
        let mut all = self.0.clone();
        for (key, value) in below {
            let first = key.split('.').next().unwrap_or(key);
            if !self.has(first) {
                all.insert(key.clone(), value.clone());
            }
        }
        Self(all)
    }

    /// From pairs; for tests and hand-made requests.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// As a form's body.
    #[must_use]
    pub fn body(&self) -> String {
        let pairs = self
            .0
            .iter()
            .map(|(k, v)| format!("{}={}", crate::web::escape(k), crate::web::escape(v)));
        pairs.collect::<Vec<_>>().join("&")
    }
}

/// `%XX` and `+`, as in application/x-www-form-urlencoded.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        let params = Params::read("", "Id.10=j&Id.2=b&Id.1=a+%26&IdOther.1=x&F.1.Name=n&F.1.Value.1=v&F.2.Name=m").unwrap();
        assert_eq!(params.list("Id"), ["a &", "b", "j"]);
        let groups = params.groups("F");
        assert_eq!((groups.len(), groups[0].list("Value")), (2, vec!["v"]));
        assert_eq!(Params::read("", &params.body()).unwrap(), params);
    }

    #[test]
    fn what_is_not_form_encoded_is_malformed() {
        for wrong in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert_eq!(Params::read("", wrong).unwrap_err().code, "MalformedQueryString", "{wrong}");
        }
    }

    #[test]
    fn a_misspelt_parameter_is_refused() {
        let params = Params::of(&[("Action", "RunInstances"), ("MinCont", "1")]);
        let refusal = params.refuse_unknown(&["MinCount"]).unwrap_err();
        assert_eq!((refusal.code.as_str(), refusal.status), ("UnknownParameter", 400));
    }

    #[test]
    fn a_template_fills_in_what_the_request_leaves_open() {
        let below = [("Tag.1.Key", "t"), ("Image", "low"), ("Size", "s")];
        let below = below.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let both = Params::of(&[("Image", "high"), ("Tag.2.Key", "u")]).over(&below);
        assert_eq!((both.get("Image"), both.get("Size")), (Some("high"), Some("s")));
        assert_eq!(both.groups("Tag").len(), 1);
    }
}
