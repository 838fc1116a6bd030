//! Canonical JSON (RFC 8785) for everything that is signed or hashed.
//!
//! We keep to a subset in which the canonical form is simple: strings, integers, booleans, null, arrays, objects with
//! ASCII keys. Numbers with a fraction are written as decimal strings by their owners, so no float ever stands here.

use serde::Serialize;
use serde_json::Value;

/// A value has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// serde cannot write it as JSON.
    #[error("the record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A number with a fraction or an exponent.
    #[error("`{0}` is not an integer: records carry decimals as strings")]
    Fraction(String),
    /// A key that is not ASCII.
    #[error("key `{0}` is not ASCII")]
    Key(String),
}

/// The canonical JSON text of `value`.
///
/// # Errors
/// If the value holds a float or a non-ASCII key.
pub fn to_canonical<T: Serialize>(value: &T) -> Result<String, CanonicalError> {
    let mut out = String::new();
    write(&serde_json::to_value(value)?, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String) -> Result<(), CanonicalError> {
    match value {
        Value::Number(number) if !(number.is_u64() || number.is_i64()) => {
            return Err(CanonicalError::Fraction(number.to_string()));
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if !key.is_ascii() {
                    return Err(CanonicalError::Key(key.clone()));
                }
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(key)?);
                out.push(':');
                write(&fields[key.as_str()], out)?;
            }
            out.push('}');
        }
        plain => out.push_str(&serde_json::to_string(plain)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_nothing_is_spaced() {
        let value = json!({"b": [1, true, null], "a": {"z": "é\n", "y": -3}});
        assert_eq!(to_canonical(&value).expect("canonical"), r#"{"a":{"y":-3,"z":"é\n"},"b":[1,true,null]}"#);
    }

    #[test]
    fn floats_are_refused() {
        assert!(matches!(to_canonical(&json!({"x": 0.5})), Err(CanonicalError::Fraction(_))));
    }
}
