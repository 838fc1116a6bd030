//! `patients.csv`: which patient each scan shows. Two columns with the header `name,patient`; scans that it does not
//! list stay patients of their own.

use std::collections::BTreeMap;
use std::path::Path;

use super::FolderError;
use super::layout::stem;

const NAME: &str = "patients.csv";

/// The patient of each listed scan. Empty where there is no table.
pub(super) fn read(root: &Path, known: impl Fn(&str) -> bool) -> Result<BTreeMap<String, String>, FolderError> {
    let path = root.join(NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(FolderError::Read { path, error }),
    };
    let refuse = |line: usize, problem: String| FolderError::Patients { path: path.clone(), line, problem };
    let mut table: BTreeMap<String, String> = BTreeMap::new();
    let mut listed_at = BTreeMap::new();
    let mut rows = text.trim_start_matches('\u{feff}').lines().enumerate();
    let header = rows.next().map(|(_, row)| fields(row)).unwrap_or_default();
    if header.len() != 2 || !header[0].eq_ignore_ascii_case("name") || !header[1].eq_ignore_ascii_case("patient") {
        return Err(refuse(1, "the first line must be `name,patient`: add it, and separate with commas".into()));
    }
    for (index, row) in rows.filter(|(_, row)| !row.trim().is_empty()) {
        let line = index + 1;
        let row = fields(row);
        let [name, patient] = row.as_slice() else {
            return Err(refuse(
                line,
                format!("there are {} fields instead of `name,patient`: correct the line", row.len()),
            ));
        };
        let name = stem(name).unwrap_or(name);
        if patient.is_empty() {
            return Err(refuse(line, format!("scan `{name}` has no patient: fill it in, or remove the line")));
        }
        if !known(name) {
            return Err(refuse(line, format!("there is no scan `{name}`: correct the name, or remove the line")));
        }
        if table.insert(name.to_owned(), patient.to_string()).is_some() {
            return Err(refuse(line, format!("scan `{name}` is listed twice: remove one of the lines")));
        }
        listed_at.insert(patient.to_string(), line);
    }
    // A scan that is not listed is a patient under its own name: that name must not be somebody else's.
    for (patient, line) in listed_at {
        if known(&patient) && !table.contains_key(&patient) {
            let problem = format!("patient `{patient}` has the name of a scan that is not listed: list that scan too");
            return Err(refuse(line, problem));
        }
    }
    Ok(table)
}

/// Fields of a row: trimmed, and out of their quotes.
fn fields(row: &str) -> Vec<&str> {
    row.split(',')
        .map(|field| {
            let field = field.trim();
            field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field).trim()
        })
        .collect()
}
