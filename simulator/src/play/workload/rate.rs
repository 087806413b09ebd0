//! How often jobs arrive: `60/m`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Jobs for each second.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// More than this is a mistake: the bound on jobs would be met within minutes.
const MOST: f64 = 10_000.0;
/// What stands behind the stroke, and how many seconds it has.
const UNITS: [(&str, f64); 4] = [("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate: write jobs for each second, minute, hour or day, such as 2/s, 60/m, 100/h or 5/d");
        let (number, unit) = text.trim().split_once('/').ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let (_, seconds) = UNITS.into_iter().find(|(word, _)| *word == unit.trim()).ok_or_else(wrong)?;
        let rate = number / seconds;
        if !rate.is_finite() || number < 0.0 {
            return Err(wrong());
        }
        if rate > MOST {
            return Err(format!("{text:?} is more than {MOST} jobs a second, the most that is simulated"));
        }
        Ok(Self(rate))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/m", self.0 * 60.0)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "jobs for each second, minute, hour or day: 2/s, 60/m, 100/h, 5/d"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_for_each_unit_of_time() {
        for (text, rate) in [("2/s", 2.0), ("60/m", 1.0), (" 1.5 / m ", 0.025), ("36/h", 0.01), ("0/d", 0.0)] {
            assert_eq!(text.parse::<Rate>(), Ok(Rate(rate)), "{text}");
        }
        for text in ["", "60", "/m", "60/w", "-1/s", "NaN/s", "inf/s", "10001/s", "60/m/s"] {
            let error = text.parse::<Rate>().unwrap_err();
            assert!(error.contains("such as 2/s") || error.contains("the most"), "{error}");
        }
        assert_eq!("90/m".parse::<Rate>().unwrap().to_string(), "90/m");
    }
}
