//! Schemas, for Kubernetes, of types that write themselves otherwise than derive would have it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::amount::{Amount, Bytes};
use crate::profile::{Count, SysctlValue};

macro_rules! schemas {
    ($($kind:ident => $schema:expr;)*) => {$(
        impl JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($kind).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let schema: fn(&mut SchemaGenerator) -> Schema = $schema;
                schema(generator)
            }
        }
    )*};
}

schemas! {
    Bytes => String::json_schema;
    Amount => String::json_schema;
    Count => number_or_text;
    SysctlValue => number_or_text;
}

/// Kubernetes has a type of its own for that.
fn number_or_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true })
}
