//! The comma-separated `key=value` form of Docker's options: `type=oci,"dest=a,b.tar"`.

/// Splits one record of RFC 4180 as Go's `encoding/csv` does: a field in double quotes may hold commas, and `""` is a
/// quote.
///
/// # Errors
/// A quote that is not closed, or text after a closing quote.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted_field(quoted).ok_or_else(|| format!("a quote in `{text}` is not closed"))?
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(format!("text after a closing quote in `{text}`")),
        }
    }
}

fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Some((field, rest)),
        }
    }
}

/// The fields as keys (lower case) and values; a field without `=` has no value.
pub(crate) fn pairs(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    Ok(fields(text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.trim().to_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_lowercase(), None),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        let table: &[(&str, &[&str])] = &[
            ("a,b", &["a", "b"]),
            ("", &[""]),
            ("type=oci,\"dest=a,b\",x", &["type=oci", "dest=a,b", "x"]),
            ("\"a\"\"b\"", &["a\"b"]),
        ];
        for (text, expected) in table {
            assert_eq!(fields(text).unwrap(), *expected, "{text}");
        }
        assert!(fields("\"open").is_err());
        assert!(fields("\"a\"b").is_err());
    }

    #[test]
    fn keys_are_lower_case_and_values_may_hold_equals_signs() {
        let read = pairs("Type=local,dest=a=b,push").unwrap();
        let expected = [("type", Some("local")), ("dest", Some("a=b")), ("push", None)];
        assert_eq!(read, expected.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))));
    }
}
