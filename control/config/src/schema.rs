//! The JSON schema of the file, as it is published in docs/config.schema.json.

use schemars::schema_for;
use serde_json::Value;

use crate::file::File;

/// For editors and for checks before a file is shipped. A file that it accepts can still be refused: the schema knows
/// nothing of names that are taken or missing.
pub fn schema() -> Value {
    schema_for!(File).to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `UPDATE_SCHEMA=1 cargo test -p shmesh-config` writes the file anew.
    #[test]
    fn the_published_schema_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
        let expected = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == expected,
            "docs/config.schema.json is old; run UPDATE_SCHEMA=1 cargo test -p shmesh-config"
        );
    }
}
