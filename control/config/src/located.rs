//! A value, and where in the file it stands.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

/// Line and column of a value, both from 1; columns count characters.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: u64,
    pub column: u64,
}

impl Place {
    /// Where a file begins.
    pub const START: Place = Place { line: 1, column: 1 };
}

impl From<Location> for Place {
    fn from(location: Location) -> Place {
        // Line 0 is the parser's "unknown".
        Place { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// A value with its place. For the schema it is the value alone.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(At { value: spanned.value, place: spanned.referenced.into() })
    }
}

/// What is said of a key with nothing behind it.
pub(crate) const NOTHING_HERE: &str = "nothing stands behind this key; write a value, or leave the key out";

/// What a key says, if the key is there.
///
/// Unlike an `Option`, a key with nothing behind it is refused and not taken for an absent one: in a match, that would
/// make a route take more than its author meant.
#[derive(Clone, Debug)]
pub(crate) struct Key<T>(pub Option<At<T>>);

impl<T> Default for Key<T> {
    fn default() -> Self {
        Key(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Without the `Option`, nothing would pass for a map without keys.
        let At { value, place } = At::<Option<T>>::deserialize(deserializer)?;
        match value {
            Some(value) => Ok(Key(Some(At { value, place }))),
            None => Err(D::Error::custom(NOTHING_HERE)),
        }
    }
}

macro_rules! schema_of_value {
    ($wrapper:ident) => {
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    };
}

schema_of_value!(At);
schema_of_value!(Key);
