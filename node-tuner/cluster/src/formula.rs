//! A small language for numbers that depend on the node: `memory / 2`, `min(cores / 8, 4)`, `25% memory - 4Gi`.
//!
//! Total: no loops, no recursion beyond a limit, whole numbers of 128 bits that never wrap. Everything that has no
//! value is an error that says where and why.
//!
//! ```text
//! sum     = product { ("+" | "-") product }
//! product = value { ("*" | "/") value }
//! value   = number [ "%" value ] | name | ("min" | "max") "(" sum { "," sum } ")" | "(" sum ")"
//! number  = digits [ "Ki" | "Mi" | "Gi" | "Ti" ]
//! ```
//!
//! Division rounds down; `25% x` is `x * 25 / 100`.

use std::collections::BTreeMap;

/// Longest text, bytes.
pub const MAX_LENGTH: usize = 256;
/// Deepest nesting.
const MAX_DEPTH: u32 = 16;

/// A formula has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{formula:?}, at {at}: {why}")]
pub struct FormulaError {
    /// As written, shortened.
    pub formula: String,
    /// Byte, from 0.
    pub at: usize,
    /// What is wrong, and what would do.
    pub why: String,
}

/// The value of `formula`, where `names` have those values.
///
/// # Errors
/// [`FormulaError`] for text that is no formula, a name that is unknown, a division by 0, and a result that is negative or
/// above 2^63 - 1.
pub fn evaluate(formula: &str, names: &BTreeMap<&str, u64>) -> Result<u64, FormulaError> {
    let told = |at: usize, why: String| FormulaError {
        formula: formula.chars().take(64).collect(),
        at,
        why,
    };
    if formula.len() > MAX_LENGTH {
        return Err(told(MAX_LENGTH, format!("is longer than {MAX_LENGTH} bytes")));
    }
    let mut reader = Reader { text: formula, at: 0, depth: 0, names };
    let value = reader.sum().and_then(|value| {
        reader.blanks();
        if reader.at < formula.len() {
            Err(reader.expected("an operator or the end"))
        } else {
            Ok(value)
        }
    });
    let value = value.map_err(|Fault { at, why }| told(at, why))?;
    match u64::try_from(value) {
        Ok(value) if i64::try_from(value).is_ok() => Ok(value),
        _ if value < 0 => {
            Err(told(0, format!("comes to {value} here; it must not be negative: max(0, ...)")))
        }
        _ => Err(told(0, "comes to more than 2^63 - 1 here".to_owned())),
    }
}

struct Fault {
    at: usize,
    why: String,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    names: &'a BTreeMap<&'a str, u64>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(' ').len();
    }

    fn fault(&self, why: impl Into<String>) -> Fault {
        Fault { at: self.at, why: why.into() }
    }

    fn expected(&self, what: &str) -> Fault {
        let found = self.rest().chars().next();
        let found = found.map_or("the end".to_owned(), |found| format!("{found:?}"));
        self.fault(format!("has {found} where {what} is due"))
    }

    /// Takes `sign` if it comes next.
    fn take(&mut self, sign: char) -> bool {
        self.blanks();
        let there = self.rest().starts_with(sign);
        if there {
            self.at += sign.len_utf8();
        }
        there
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn sum(&mut self) -> Result<i128, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("nests deeper than {MAX_DEPTH}")));
        }
        let mut value = self.product()?;
        loop {
            let next = if self.take('+') {
                let more = self.product()?;
                value.checked_add(more)
            } else if self.take('-') {
                let less = self.product()?;
                value.checked_sub(less)
            } else {
                self.depth -= 1;
                return Ok(value);
            };
            value = next.ok_or_else(|| self.fault("comes to a number that is too great"))?;
        }
    }

    fn product(&mut self) -> Result<i128, Fault> {
        let mut value = self.value()?;
        loop {
            let next = if self.take('*') {
                let factor = self.value()?;
                value.checked_mul(factor)
            } else if self.take('/') {
                let divisor = self.value()?;
                if divisor == 0 {
                    return Err(self.fault("divides by 0 here"));
                }
                value.checked_div_euclid(divisor)
            } else {
                return Ok(value);
            };
            value = next.ok_or_else(|| self.fault("comes to a number that is too great"))?;
        }
    }

    fn value(&mut self) -> Result<i128, Fault> {
        if self.take('(') {
            let value = self.sum()?;
            return if self.take(')') { Ok(value) } else { Err(self.expected("\")\"")) };
        }
        match self.rest().chars().next() {
            Some(first) if first.is_ascii_digit() => self.number(),
            Some(first) if first.is_ascii_lowercase() => self.name(),
            _ => Err(self.expected("a number, a name or \"(\"")),
        }
    }

    fn number(&mut self) -> Result<i128, Fault> {
        let start = self.at;
        let digits = self.word(|c| c.is_ascii_digit());
        let great = || Fault { at: start, why: "is a number that is too great".to_owned() };
        // At most 2^64 - 1, so that no unit and no percentage leaves 128 bits.
        let number: u64 = digits.parse().map_err(|_| great())?;
        let number = i128::from(number);
        for (unit, shift) in [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)] {
            if self.rest().starts_with(unit) {
                self.at += unit.len();
                return number.checked_mul(1 << shift).ok_or_else(great);
            }
        }
        if !self.take('%') {
            return Ok(number);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("nests deeper than {MAX_DEPTH}")));
        }
        self.blanks();
        let whole = self.value()?;
        self.depth -= 1;
        whole.checked_mul(number).map(|product| product.div_euclid(100)).ok_or_else(great)
    }

    fn name(&mut self) -> Result<i128, Fault> {
        let start = self.at;
        let name = self.word(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if let "min" | "max" = name
            && self.take('(')
        {
            let mut value = self.sum()?;
            while self.take(',') {
                let other = self.sum()?;
                value = if name == "min" { value.min(other) } else { value.max(other) };
            }
            return if self.take(')') { Ok(value) } else { Err(self.expected("\",\" or \")\"")) };
        }
        let known = || {
            let names: Vec<&str> = self.names.keys().copied().collect();
            format!("knows no {name:?}; there are {}, min(...) and max(...)", names.join(", "))
        };
        let value = self.names.get(name).ok_or_else(|| Fault { at: start, why: known() })?;
        Ok(i128::from(*value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeMap<&'static str, u64> {
        BTreeMap::from([("cores", 16), ("memory", 64 << 30), ("nothing", 0)])
    }

    #[test]
    fn values() {
        for (formula, value) in [
            ("7", 7),
            ("memory / 2", 32 << 30),
            ("50% memory", 32 << 30),
            ("25% memory - 4Gi", 12 << 30),
            ("min(cores / 8, 4)", 2),
            ("max(1,cores/64)", 1),
            ("max(0, 1Gi - 2Gi)", 0),
            ("2 + 3 * 4", 14),
            ("(2 + 3) * 4", 20),
            ("10 - 3 - 2", 5),
            ("100 / 7 / 2", 7),
            ("  1 +1 ", 2),
            ("min(3)", 3),
            ("10% 50% memory", (64 << 30) / 2 / 10),
        ] {
            assert_eq!(evaluate(formula, &names()), Ok(value), "{formula}");
        }
    }

    #[test]
    fn what_has_no_value_says_where_and_why() {
        for (formula, at, why) in [
            ("", 0, "has the end where a number, a name or \"(\" is due"),
            ("memory /", 8, "has the end where"),
            ("memory 2", 7, "has '2' where an operator or the end is due"),
            (
                "ram / 2",
                0,
                "knows no \"ram\"; there are cores, memory, nothing, min(...) and max(...)",
            ),
            ("1 / nothing", 11, "divides by 0 here"),
            ("1 / (cores - 16)", 16, "divides by 0 here"),
            ("1 - 2", 0, "comes to -1 here; it must not be negative: max(0, ...)"),
            ("99999999999999999999", 0, "is a number that is too great"),
            (
                "18446744073709551615Ti * 18446744073709551615Ti",
                47,
                "comes to a number that is too great",
            ),
            ("9223372036854775808", 0, "comes to more than 2^63 - 1 here"),
            ("min(1, 2", 8, "has the end where \",\" or \")\" is due"),
            ("1; 2", 1, "has ';' where"),
            ("é", 0, "has 'é' where"),
        ] {
            let error = evaluate(formula, &names()).unwrap_err();
            assert_eq!(error.at, at, "{formula}: {error}");
            assert!(error.why.starts_with(why), "{formula}: {error}");
        }
        let deep = format!("{}1{}", "(".repeat(40), ")".repeat(40));
        assert!(evaluate(&deep, &names()).unwrap_err().why.contains("nests deeper"));
        let deep = "1%".repeat(100);
        assert!(evaluate(&deep, &names()).unwrap_err().why.contains("nests deeper"));
        let long = "1+".repeat(200);
        assert!(evaluate(&long, &names()).unwrap_err().why.contains("longer than"));
    }

    #[test]
    fn any_text_has_a_value_or_an_error() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = evaluate(text, &names());
        });
    }
}
